"""Generation as an iterator: the program's tokens, text as it becomes complete, every way to end."""

import gc
import json
import os
import signal
import threading
import time

import numpy as np
import pytest

import bitnet
from conftest import DEMO, SMALL, cli, python


def workers():
    return [thread for thread in threading.enumerate() if thread.name == "bitnet generate"]


@pytest.fixture(autouse=True)
def no_thread_is_left():
    yield
    gc.collect()
    assert workers() == []


@pytest.mark.parametrize(
    "options, params",
    [
        ([], {}),
        (["--temperature", "0.9", "--seed", "7"], {"temperature": 0.9, "seed": 7}),
        (
            ["--temperature", "1.3", "--top-k", "20", "--top-p", "0.8", "--min-p", "0.01", "--seed", "3"],
            {"temperature": 1.3, "top_k": 20, "top_p": 0.8, "min_p": 0.01, "seed": 3},
        ),
        (["--repeat-penalty", "1.5"], {"repeat_penalty": 1.5}),
    ],
)
def test_tokens_are_the_programs(ctx, ids, options, params):
    tokens = ",".join(map(str, ids))
    printed = cli("run", "-m", SMALL, "--tokens", tokens, "-n", "24", "--json", *options)
    assert [t.id for t in ctx.generate(ids, max_tokens=24, **params)] == json.loads(printed)["tokens"]


def test_text_is_the_programs(demo):
    printed = json.loads(cli("run", "-m", DEMO, "-p", "What is 2+2?", "-n", "40", "--json"))
    generation = demo.generate("What is 2+2?", max_tokens=40)
    tokens = list(generation)
    assert [t.id for t in tokens] == generation.tokens == printed["tokens"]
    assert "".join(t.text for t in tokens) == generation.text
    assert b"".join(t.bytes for t in tokens).decode() == generation.text
    assert repr(generation) == f"<bitnet.Generation, {len(tokens)} tokens, {generation.stopped_by}>"


def test_characters_of_several_tokens_come_whole(demo, monkeypatch):
    ids = demo.tokenize("a☃b", add_bos=False)
    assert len(ids) > 3
    with demo.context(n_threads=1) as ctx:
        ctx.eval("x")
        generation = ctx.generate()
        texts = [generation._token(i).text for i in ids]
    assert "".join(texts) == "a☃b" and texts.count("") == len(ids) - 3


def test_is_lazy_and_ends_where_the_loop_is_left(ctx, ids):
    ctx.eval(ids)
    generation = ctx.generate(max_tokens=50)
    assert ctx.position == 12 and workers() == []  # nothing has run
    for n, token in enumerate(generation, 1):
        if n == 3:
            break
    with pytest.raises(bitnet.BusyError):  # it may go on
        ctx.eval([1])
    assert len(workers()) == 1
    generation.close()
    generation.close()
    assert generation.stopped_by == "closed" and list(generation) == []
    assert ctx.position == 12 + 2  # all but the last token have been evaluated
    ctx.eval([token.id])  # and it can be used again
    for token in ctx.generate(max_tokens=5):
        break
    ctx.eval([1])  # nobody holds the iterator: it has ended
    with ctx.generate(max_tokens=5) as held:
        next(held)
    ctx.eval([1])


def test_may_continue_token_by_token(model, ids):
    with model.context(n_threads=1) as whole, model.context(n_threads=1) as parts:
        expected = [t.id for t in whole.generate(ids, max_tokens=10)]
        parts.eval(ids)
        found = []
        while len(found) < 10:
            (token,) = parts.generate(max_tokens=1)
            found.append(token.id)
            parts.eval([token.id])
    assert found == expected


def test_logits_are_those_that_it_was_drawn_from(ctx, model, ids):
    rows, tokens = [], []
    for token in ctx.generate(ids, max_tokens=6):
        assert token.logits.shape == (512,) and not token.logits.flags.writeable
        assert int(np.argmax(token.logits)) == token.id
        rows.append(token.logits.copy())
        tokens.append(token.id)
    with model.context(n_threads=1) as again:
        again.eval(ids + tokens[:-1], logits="all")
        assert (again.logits[11:] == np.stack(rows)).all()


def test_every_reason_to_end(ctx, demo, ids):
    generation = ctx.generate(ids, max_tokens=4)
    assert len(list(generation)) == 4 and generation.stopped_by == "length"
    assert list(ctx.generate(max_tokens=0)) == []
    generation = demo.generate("What is 2+2?")
    list(generation)
    assert generation.stopped_by == "end" and generation.tokens[-1] in demo.end_ids
    character = generation.text[1]
    stopped = demo.generate("What is 2+2?", stop=[character])
    list(stopped)
    assert stopped.stopped_by == "stop" and character in stopped.text and len(stopped.tokens) < len(generation.tokens)
    stopped = demo.generate("What is 2+2?", stop_tokens=[generation.tokens[1]])
    assert [t.id for t in stopped] == generation.tokens[: generation.tokens.index(generation.tokens[1]) + 1]
    assert stopped.stopped_by == "stop"
    longer = demo.generate("What is 2+2?", max_tokens=len(generation.tokens) + 3, ignore_end=True)
    assert len(list(longer)) == len(generation.tokens) + 3 and longer.stopped_by == "length"
    with demo.context(n_ctx=20, n_threads=1) as short:
        full = short.generate("What is 2+2?", ignore_end=True)
        list(full)
        assert full.stopped_by == "full" and short.position == 20


def test_failures(ctx, ids):
    with pytest.raises(bitnet.InvalidError):  # nothing to continue
        list(ctx.generate(max_tokens=1))
    ctx.eval(ids)
    with pytest.raises(bitnet.InvalidError, match="temperature is -1"):
        list(ctx.generate(temperature=-1.0))
    with pytest.raises(bitnet.InvalidError, match="stop_strings"):
        list(ctx.generate(stop=""))
    with pytest.raises(TypeError):
        ctx.generate(temprature=1)
    assert len(list(ctx.generate(max_tokens=2))) == 2


def test_sinks_see_it_and_leaving_the_trace_ends_it(ctx, ids):
    stages = []
    with ctx.trace(
        lambda event: stages.append((event.position, threading.current_thread().name)), select="*:0:attn_norm"
    ):
        generation = ctx.generate(ids, max_tokens=50)
        for _, _token in zip(range(4), generation):
            pass
    assert generation.stopped_by == "closed"
    assert stages[0] == (0, "MainThread")
    assert stages[1:] == [(12 + i, "bitnet generate") for i in range(len(stages) - 1)] and len(stages) >= 4


def test_a_sink_cannot_ask_for_the_next_token(ctx, ids):
    def sink(event):
        next(generation)

    ctx.eval(ids)
    generation = ctx.generate(max_tokens=5)
    with pytest.raises(bitnet.BusyError):
        with ctx.trace(sink):
            list(generation)


def test_program_may_end_with_a_generation_under_way():
    begin = time.monotonic()
    assert (
        python(
            f"""
import bitnet
generation = bitnet.Model({str(SMALL)!r}).generate([1, 2, 3])
print(next(generation).id >= 0)
""",
            BITNET_LIBRARY=bitnet.library_path(),
        )
        == "True\n"
    )
    assert time.monotonic() - begin < 20


def test_ctrl_c_ends_it(ctx, ids):
    ctx.eval(ids)
    position = ctx.position
    with ctx.trace(lambda event: os.kill(os.getpid(), signal.SIGINT) or time.sleep(0.05), select="13:1:attn_norm"):
        generation = ctx.generate(max_tokens=9)
        with pytest.raises(KeyboardInterrupt):
            list(generation)
        assert generation.stopped_by == "closed" and list(generation) == []
        ctx.eval([1])
    assert ctx.position >= position + 1
