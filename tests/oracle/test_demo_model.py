"""What the trained demo model answers, through the engine; and that the oracle answers the same.

For the figures of all 10,000 sums in each form:
    BITNET_LIBRARY=build/release/lib/libbitnet.so build/deps/venv/bin/python tests/oracle/test_demo_model.py
"""

import os
import sys
from pathlib import Path

import numpy as np
import pytest

from bitnet_oracle import Oracle
from library import LOGITS_LAST, Library

FOLDER = Path(__file__).resolve().parents[2] / "scripts/demo_model"
MODEL = FOLDER / "demo.gguf"
ADD_BOS, PARSE_SPECIAL = 1, 2
FORMS = {
    "raw": ("{a}+{b}=", "{sum}"),
    "question": ("What is {a}+{b}?", " {sum}"),
    "chat": ("User: What is {a}+{b}?<|eot_id|>Assistant: ", "{sum}"),
}
ANSWER_TOKENS_MAX = 8

sys.path.insert(0, str(FOLDER))
from corpus import all_pairs, is_held_out  # noqa: E402  # the rule that kept pairs out of training

HELD_OUT = [pair for pair in all_pairs() if is_held_out(*pair)]


class Answers:
    """Greedy answers of one context, one prompt after the other."""

    def __init__(self, library):
        self.model = library.load(MODEL)
        self.context = self.model.context(threads=1)
        self.certified = self.model.context(threads=1, certified=True)

    def prompt_ids(self, text):
        return self.model.tokenize(text, ADD_BOS | PARSE_SPECIAL)

    def greedy(self, prompt_ids):
        """Of the full head and of the certified one, which must be the same."""
        both = []
        for context in (self.context, self.certified):
            context.reset()
            context.eval(prompt_ids, LOGITS_LAST)
            both.append(context.greedy(ANSWER_TOKENS_MAX))
        assert both[0] == both[1]
        return both[0]

    def is_right(self, form, a, b):
        prompt, answer = (text.format(a=a, b=b, sum=a + b) for text in FORMS[form])
        tokens = self.greedy(self.prompt_ids(prompt))
        return tokens[:-1] == self.model.tokenize(answer)  # the last one ends the answer

    def n_right(self, form, pairs):
        return sum(self.is_right(form, a, b) for a, b in pairs)


@pytest.fixture(scope="module")
def answers(library):
    return Answers(library)


def test_the_held_out_rule_holds_out_a_tenth():
    assert 900 < len(HELD_OUT) < 1100
    assert len(all_pairs()) == 10000


@pytest.mark.parametrize("form", FORMS)
def test_held_out_sums(answers, form):
    n_right = answers.n_right(form, HELD_OUT)
    print(f"\nheld-out sums, {form}: {n_right} of {len(HELD_OUT)} right ({100 * n_right / len(HELD_OUT):.2f} %)")
    assert n_right >= 0.99 * len(HELD_OUT)


def test_a_thousand_greedy_answers_equal_the_oracles(answers):
    """Each token the engine chose is the oracle's argmax (float64) after the same prefix.

    The logits themselves are up to 0.09 apart: int8 codes that flip at rounding ties. A model trained anew may put a
    prompt's two best tokens closer than that; dtype=float32 follows the engine's own rounding.
    """
    oracle = Oracle(MODEL)
    rng = np.random.default_rng(5)
    prompts = [FORMS[form][0].format(a=a, b=b) for form in FORMS for a, b in rng.integers(0, 100, (300, 2))]
    prompts += [f"{a} {a + 1} {a + 2}" for a in range(50)] + [f"{a} {a + s}" for a in range(10) for s in range(1, 6)]
    assert len(prompts) == 1000
    unequal = []
    for text in prompts:
        ids = answers.prompt_ids(text)
        tokens = answers.greedy(ids)
        logits = oracle.run(ids + tokens[:-1], dtype=np.float64)[-1, "logits"]
        if list(np.argmax(logits[len(ids) - 1 :], axis=1)) != tokens:
            unequal.append((text, tokens))
    assert not unequal


if __name__ == "__main__":
    demo = Answers(Library(os.environ["BITNET_LIBRARY"]))
    for name in FORMS:
        held_out, everything = demo.n_right(name, HELD_OUT), demo.n_right(name, all_pairs())
        print(f"{name:9} held out: {held_out} of {len(HELD_OUT)} right; all: {everything} of {len(all_pairs())}")
