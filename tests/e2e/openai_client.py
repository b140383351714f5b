#!/usr/bin/env python3
"""What a user of the `openai` package does, against the API at the URL given. Fails on any surprise."""
import sys

import openai

base = sys.argv[1]
client = openai.OpenAI(base_url=f"{base}/v1", api_key="none", timeout=120, max_retries=0)
messages = [{"role": "user", "content": "What is the capital of France?"}]

models = [model.id for model in client.models.list()]
assert {"owm-geo", "owm-code"} <= set(models), models

whole = client.chat.completions.create(
    model="owm-geo", messages=messages, max_tokens=12, temperature=0, seed=5
)
choice = whole.choices[0]
assert choice.message.role == "assistant", choice
assert isinstance(choice.message.content, str), choice
assert choice.finish_reason in ("stop", "length"), choice
usage = whole.usage
assert usage.prompt_tokens > 0 and 1 <= usage.completion_tokens <= 12, usage
assert usage.total_tokens == usage.prompt_tokens + usage.completion_tokens, usage

text, usages, reasons = "", [], []
for chunk in client.chat.completions.create(
    model="owm-geo",
    messages=messages,
    max_tokens=12,
    temperature=0,
    seed=5,
    stream=True,
    stream_options={"include_usage": True},
):
    if chunk.usage:
        usages.append(chunk.usage)
    for choice in chunk.choices:
        text += choice.delta.content or ""
        if choice.finish_reason:
            reasons.append(choice.finish_reason)
assert text == whole.choices[0].message.content, (text, whole)
assert len(usages) == 1 and usages[0].completion_tokens == usage.completion_tokens, usages
assert len(reasons) == 1, reasons

# A stop sequence taken from the answer itself ends the answer before it.
if len(text) > 4:
    stop = text[2:4]
    stopped = client.chat.completions.create(
        model="owm-geo", messages=messages, max_tokens=12, temperature=0, seed=5, stop=[stop]
    )
    assert stopped.choices[0].message.content == text[: text.index(stop)], (stopped, text)
    assert stopped.choices[0].finish_reason == "stop", stopped

try:
    client.chat.completions.create(model="no-such-model", messages=messages)
    raise AssertionError("an unknown model was accepted")
except openai.NotFoundError as error:
    assert error.body["message"], error.body
except openai.BadRequestError as error:
    assert error.body["message"], error.body

try:
    client.chat.completions.create(model="owm-geo", messages=messages, temperature=9)
    raise AssertionError("temperature 9 was accepted")
except openai.BadRequestError as error:
    assert error.body["param"] == "temperature", error.body

print("ok")
