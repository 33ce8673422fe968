"""What the model reads and how its answer is read: rendering appends only, answers parse back."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast
from turnwise.agents.agent import Dialogue
from turnwise.agents.context import Context, Renderer, tersely
from turnwise.agents.models import ScratchModel, build_tokenizer
from turnwise.envs import RequestError

CHATML = (
    "{% if messages[0]['role'] != 'system' %}{{ '<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n' }}"
    "{% endif %}{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
FORGETFUL = (
    "{% for m in messages %}{% if m['role'] == 'user' and not loop.last and loop.length > 2 %}"
    "{{ '<|im_start|>user\n...' }}{% else %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] }}{% endif %}"
    "{{ '<|im_end|>\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
TEXTS = ["You enter a house.\n\nThe sign says red.", "open the door", "system user assistant", "go north, then 12 'x'!"]


def byte_level(template: str) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer with Qwen's special tokens."""
    tokenizer = Tokenizer(models.BPE(unk_token=None))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=["<|endoftext|>", "<|im_start|>", "<|im_end|>"], show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )  # fmt: skip
    tokenizer.train_from_iterator(TEXTS * 20, trainer)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token="<|im_end|>", pad_token="<|endoftext|>",
        additional_special_tokens=["<|im_start|>"], clean_up_tokenization_spaces=False,
    )  # fmt: skip
    fast.chat_template = template
    return fast


OURS = Renderer(build_tokenizer(TEXTS, ScratchModel(tokens="bytes", vocabulary=400)))
WORDS = Renderer(build_tokenizer(TEXTS, ScratchModel(tokens="words")))
QWEN = Renderer(byte_level(CHATML))


def whole(renderer: Renderer, messages: Sequence[tuple[str, str]]) -> tuple[int, ...]:
    """Ids of a whole dialogue, rendered by the template at once and encoded at once."""
    dialogue = [{"role": role, "content": content} for role, content in messages]
    text = renderer.tokenizer.apply_chat_template(dialogue, tokenize=False, add_generation_prompt=True)
    return tuple(renderer.tokenizer(text, add_special_tokens=False)["input_ids"])


def appended(renderer: Renderer, system: str, users: Sequence[str], answers: Sequence[str]) -> tuple[int, ...]:
    """The same by `start`, `answer` and `extend`."""
    head = (("system", system),) if system else ()
    ids = renderer.start((*head, ("user", users[0])))
    for said, user in zip(answers, users[1:], strict=True):
        ids = (*ids, *renderer.answer(said), *renderer.extend(user, answered=True))
    return ids


def dialogue(system: str, users: Sequence[str], answers: Sequence[str]) -> list[tuple[str, str]]:
    head = [("system", system)] if system else []
    turns = [[("user", user), ("assistant", said)] for user, said in zip(users, [*answers, ""], strict=True)]
    return [*head, *[message for turn in turns for message in turn][:-1]]


ANY = st.text(st.characters(exclude_categories=("Cs",), exclude_characters="<\u241e"), max_size=40)
ANSWER = st.from_regex(r"[a-zA-Zé][a-zA-Z0-9 ,.'é\n]{0,20}[a-z.]", fullmatch=True)


@pytest.mark.parametrize("renderer", [OURS, QWEN], ids=["own template", "ChatML"])
@given(data=st.data(), system=st.sampled_from(["", "Play."]), count=st.integers(1, 4))
@settings(max_examples=60, deadline=None)
def test_appending_equals_rendering_the_whole_dialogue(renderer: Renderer, data: Any, system: str, count: int) -> None:
    users = data.draw(st.lists(ANY, min_size=count, max_size=count))
    answers = data.draw(st.lists(ANSWER, min_size=count - 1, max_size=count - 1))
    assert appended(renderer, system, users, answers) == whole(renderer, dialogue(system, users, answers))


@given(st.lists(st.sampled_from(TEXTS), min_size=3, max_size=3), st.sampled_from(TEXTS), st.sampled_from(TEXTS))
@settings(max_examples=30, deadline=None)
def test_appending_equals_rendering_for_a_vocabulary_of_words(users: list[str], first: str, second: str) -> None:
    answers = [first, second]
    assert appended(WORDS, "", users, answers) == whole(WORDS, dialogue("", users, answers))


def test_the_template_writes_what_is_expected() -> None:
    text = QWEN.tokenizer.decode(list(appended(QWEN, "", ["a", "b"], ["open"])))
    assert text == (
        "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\na<|im_end|>\n"
        "<|im_start|>assistant\nopen<|im_end|>\n<|im_start|>user\nb<|im_end|>\n<|im_start|>assistant\n"
    )
    assert OURS.tokenizer.decode(list(appended(OURS, "", ["a", "b"], ["open"]))) == (
        "<|user|>a<|assistant|>open<|end|><|user|>b<|assistant|>"
    )


@pytest.mark.parametrize("renderer", [OURS, QWEN, WORDS])
def test_an_answer_that_was_cut_gets_its_end_token(renderer: Renderer) -> None:
    end = renderer.tokenizer.eos_token_id
    assert renderer.end_id == end
    assert renderer.extend("b", answered=False) == (end, *renderer.extend("b", answered=True))


@pytest.mark.parametrize("renderer", [OURS, QWEN])
@given(text=ANY)
@settings(max_examples=60, deadline=None)
def test_an_answer_comes_back_as_text(renderer: Renderer, text: str) -> None:
    ids = renderer.answer(text)
    assert ids[-1] == renderer.end_id
    assert renderer.text(ids) == text
    assert renderer.text(ids[:-1]) == text, "cut before its end token"


def test_the_probe_tells_templates_that_append_from_those_that_forget() -> None:
    assert OURS.is_prefix_preserving() and QWEN.is_prefix_preserving() and WORDS.is_prefix_preserving()
    forgetful = Renderer(byte_level(FORGETFUL))
    assert not forgetful.is_prefix_preserving()
    # Training stays exact: what was sampled is appended to, never rendered again.
    ids = appended(forgetful, "", ["red", "green"], ["open"])
    assert ids[: len(forgetful.start((("user", "red"),)))] == forgetful.start((("user", "red"),))
    assert ids != whole(forgetful, dialogue("", ["red", "green"], ["open"]))


def test_a_tokenizer_without_a_usable_template_is_refused() -> None:
    bare = byte_level(CHATML)
    bare.chat_template = None
    with pytest.raises(RequestError, match="chat template"):
        Renderer(bare)
    endless = byte_level("{% for m in messages %}{{ m['role'] + ': ' + m['content'] + '. ' }}{% endfor %}")
    with pytest.raises(RequestError, match="special token"):
        Renderer(endless)


# ---- contexts -----------------------------------------------------------------------------------------

INFO = {"goal": "Find the key.", "commands": ("go north", "look")}


def hear(told: Dialogue, observation: str) -> tuple[tuple[int, ...], bool]:
    return told.hear(observation, INFO)


def test_a_transcript_only_grows() -> None:
    told = Dialogue(OURS, Context(goal="first", system="Play."))
    first, restart = hear(told, "A room.")
    assert restart and first == OURS.start((("system", "Play."), ("user", "A room.\nGoal: Find the key.")))
    sampled = (7, 8, OURS.end_id)
    told.say(sampled, answered=True)
    second, restart = hear(told, "Another room.")
    assert not restart and second == OURS.extend("Another room.", answered=True)
    told.say((9,), answered=False)
    third, _ = hear(told, "A wall.")
    assert third[0] == OURS.end_id
    assert told.ids == [*first, *sampled, *second, 9, *third]


def test_a_window_is_the_last_exchanges_rendered_anew() -> None:
    told = Dialogue(OURS, Context(layout="windowed", history=1, goal="every", system="Play."))
    said = []
    for number in range(3):
        added, restart = hear(told, f"Room {number}.")
        assert restart and tuple(told.ids) == added
        said.append(f"go {number}")
        told.say(OURS.answer(said[-1]), answered=True)
    user = "Room {}.\nGoal: Find the key."
    past = (("user", user.format(1)), ("assistant", "go 1"))
    assert added == OURS.start((("system", "Play."), *past, ("user", user.format(2))))


@pytest.mark.parametrize(
    ("context", "first", "expected"),
    [
        (Context(goal="first"), True, "A room.\nGoal: Find the key."),
        (Context(goal="first"), False, "A room."),
        (Context(goal="every"), False, "A room.\nGoal: Find the key."),
        (Context(goal="never"), True, "A room."),
        (Context(goal="never", commands=True), True, "A room.\nActions: go north, look"),
        (Context(goal="every", terse=True), False, "room. Goal: Find key."),
    ],
)
def test_a_message_holds_what_the_context_says(context: Context, first: bool, expected: str) -> None:
    assert context.message(" A room.\n", INFO["goal"], INFO["commands"], first) == expected  # type: ignore[arg-type]


def test_a_game_without_a_list_of_commands_shows_none() -> None:
    assert Context(commands=True, goal="never").message("A room.", "", None, True) == "A room."
    assert Context(commands=True, goal="never").message("The end.", "", (), True) == "The end.\nActions: "


@pytest.mark.parametrize("layout", ["transcript", "windowed"])
def test_commands_are_listed_where_they_changed(layout: str) -> None:
    told = Dialogue(OURS, Context(layout=layout, history=0, goal="never", commands="changed"))  # type: ignore[arg-type]
    shown = []
    for commands in (("look",), ("look",), ("look", "go"), None, None, ("look", "go"), ("look", "go")):
        told.hear("A room.", {"goal": "", "commands": commands})
        shown.append(told._message.partition("\n")[2])
        told.say(OURS.answer("look"), answered=True)
    listed = "Actions: look, go"
    if layout == "windowed":  # each turn is a context of its own
        assert shown == ["Actions: look", "Actions: look", listed, "", "", listed, listed]
    else:
        assert shown == ["Actions: look", "Actions: as before", listed, "", "", listed, "Actions: as before"]


def test_terse_drops_banners_articles_and_white_space() -> None:
    assert tersely("-= Kitchen =-\nYou see a  lamp, an apple and the Table.") == "You see lamp, apple and Table."
    assert tersely("Some milk and THE end; theatre, anvil, banana") == "milk and end; theatre, anvil, banana"
    assert tersely("") == "" and tersely("the") == "the"


# ---- actions ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("answer", ["plain", "tags"])
@given(text=st.text(st.characters(exclude_categories=("Cs",), exclude_characters="<>"), max_size=60))
def test_an_action_comes_back_with_single_spaces(answer: Any, text: str) -> None:
    context = Context(answer=answer)
    assert context.action(context.render_action(text)) == " ".join(text.split())


@given(text=st.text(max_size=200))
def test_any_answer_gives_one_line(text: str) -> None:
    for answer in ("plain", "tags"):
        action = Context(answer=answer).action(text)  # type: ignore[arg-type]
        assert action == " ".join(action.split())


@pytest.mark.parametrize(
    ("said", "action"),
    [
        ("I think.\n<action>go north</action>", "go north"),
        ("<action>look</action> or rather <ACTION>\n take  key\n</Action>", "take key"),
        ("go north", ""),
        ("<action>go north", ""),
        ("<action></action>", ""),
        ("", ""),
    ],
)
def test_the_last_tag_is_the_action_and_no_tag_is_none(said: str, action: str) -> None:
    assert Context(answer="tags").action(said) == action


@given(commands=st.lists(st.text(min_size=1, max_size=9), min_size=1, max_size=30, unique=True), data=st.data())
def test_the_number_of_a_listed_command_is_that_command(commands: list[str], data: st.DataObject) -> None:
    context, chosen = Context(answer="number", commands=True), data.draw(st.sampled_from(commands))
    said = context.render_action(chosen, commands)
    assert said == str(1 + commands.index(chosen)) and context.action(f" {said}\n", commands) == chosen
    listed = context.message("You see.", "", tuple(commands), first=True)
    assert listed == "You see.\nActions: " + ", ".join(f"{i + 1} {c}" for i, c in enumerate(commands))


@pytest.mark.parametrize("said", ["0", "3", "-1", "1.0", "one", "", "1 2", "²", "99999999999999999999", "look"])
def test_other_answers_than_a_listed_number_are_none(said: str) -> None:
    context = Context(answer="number", commands=True)
    assert context.action(said, ("look", "wait")) == ""
    assert context.action("1", None) == "" and context.action("2", ("look", "wait")) == "wait"


def test_numbers_need_a_list() -> None:
    with pytest.raises(RequestError, match="listed, for answer=number, got 'fly'"):
        Context(answer="number", commands=True).render_action("fly", ("look",))
    with pytest.raises(ValueError, match="needs commands=true"):
        Context(answer="number")


def test_a_plain_answer_is_the_action() -> None:
    assert Context().action(" go\n north <action>x</action> ") == "go north <action>x</action>"


@pytest.mark.parametrize("renderer", [OURS, WORDS, QWEN], ids=["own template", "words", "ChatML"])
def test_text_of_a_game_cannot_write_special_tokens(renderer: Renderer) -> None:
    tokenizer = renderer.tokenizer
    special = set(tokenizer.all_special_ids) - {tokenizer.unk_token_id}
    hostile = "hello " + " ".join(map(str, tokenizer.all_special_tokens))
    for render in (lambda text: renderer.start((("user", text),)), lambda text: renderer.extend(text, answered=True)):
        assert [i for i in render(hostile) if i in special] == [i for i in render("hello") if i in special]
