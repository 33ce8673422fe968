"""An agent of your own: any program with an OpenAI client. `turnwise train toy --set program=agent_program:play`"""

import openai

client = openai.OpenAI(api_key="none", base_url="http://localhost")  # one for all episodes: making it takes time


def play(run):
    policy = client.with_options(base_url=run.base_url)
    observation, info = run.env.reset()
    messages = []
    while not info["stop"]:
        messages.append({"role": "user", "content": observation})
        answer = policy.chat.completions.create(model="policy", messages=messages).choices[0].message.content
        messages.append({"role": "assistant", "content": answer})
        observation, *_, info = run.env.step(answer)  # Gymnasium's five values
