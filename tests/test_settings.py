"""Every setting of a recipe: shown by its key, and the key is what `--set` takes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from test_cli import turnwise
from turnwise.envs.errors import RequestError
from turnwise.training import recipes
from turnwise.training.config import override, parse_settings
from turnwise.training.recipes import RECIPES
from turnwise.training.settings import as_json, settings


@pytest.mark.parametrize("name", RECIPES)
def test_every_shown_setting_can_be_set_to_what_is_shown(name: str) -> None:
    recipe = recipes.load(name)
    shown = [each for each in settings(recipe) if each.key != "model"]
    pairs = [f"{each.key}={as_json(each.value)}" for each in shown]
    assert override(recipe, parse_settings(pairs)) == recipe
    assert override(recipes.load("toy"), parse_settings(pairs)) == recipe, "the settings are the whole recipe"
    assert all(each.help for each in shown) and len({each.key for each in shown}) == len(shown)


def test_what_a_setting_may_be() -> None:
    kinds = {each.key: each.kind for each in settings(recipes.load("toy"))}
    assert kinds["rl.lr"] == "number > 0" and kinds["budget.sft_share"] == "number >= 0, <= 1"
    assert kinds["budget.total"] == "whole number >= 1, or null" and kinds["engine.kind"] == "torch, vllm"
    assert kinds["context.commands"] == "true, false, changed" and kinds["program"] == "text, list"
    assert kinds["model"] == "object, text" and kinds["env.params"] == "object" and kinds["alarms"] == "list"


def test_a_recipe_is_shown_and_not_trained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    done = turnwise("train", "toy", "--set", "rl.lr=0.5", "--show")
    assert done.code == 0 and not list(tmp_path.iterdir())
    (line,) = [line for line in done.out.splitlines() if line.split()[:1] == ["rl.lr"]]
    assert line.split()[1:3] == ["0.5", "number"]  # the rest may stand on further lines
    told = turnwise("train", "toy", "--show", "--json")
    assert json.loads(told.out) == recipes.load("toy").model_dump(mode="json")
    for wrong in (("toyy",), ("toy", "--set", "rl.l=1"), ()):
        assert turnwise("train", *wrong, "--show").code == 2


def test_a_recipe_of_ones_own_is_found_beside_the_user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    code = "def mine():\n    return load('toy').model_copy(update={'name': 'm'})\n"
    (tmp_path / "my_recipes.py").write_text(f"from turnwise.training.recipes import load\n\n\n{code}")
    assert turnwise("train", "my_recipes:mine", "--show", "--json").json["name"] == "m"
    missing = turnwise("train", "my_recipes:yours", "--show")
    assert missing.code == 2 and "Expected a recipe as package.module:function, got 'my_recipes:yours'" in " ".join(
        missing.err.split()
    )


@pytest.mark.parametrize(
    ("setting", "says"),
    [
        ("context.commands=often", "'context.commands': Input should be a valid boolean, unable to interpret input; or "
                                   "Input should be 'changed'. Got 'often'"),
        ("model.layers=x", "'model.layers': Input should be a valid integer"),
        ("model=5", "'model': Input should be a valid dictionary or instance of ScratchModel; or Input should be a "
                    "valid string. Got 5"),
        ('slots={"a": 5}', "'slots.a': Input should be a valid string; or Input should be a valid list. Got 5"),
        ('alarms=[{"metric": "x", "above": "a"}]', "'alarms.0.above': Input should be a valid number"),
    ],
)  # fmt: skip
def test_a_bad_value_is_named_by_its_key_with_all_that_it_may_be(setting: str, says: str) -> None:
    with pytest.raises(RequestError) as refused:
        override(recipes.load("toy"), parse_settings([setting]))
    assert f"Bad value for {says}" in str(refused.value)
