#!/usr/bin/env python3
"""Seeded generator of the demo model's training text: sums, counting, calendar lists, patterns.

A document is a list of (text, weight) segments. Segments are tokenised separately, because at run
time the prompt and the answer are; the weight is that of the segment's tokens in the loss."""
import argparse
import hashlib

BOS, EOS, EOT = "<|begin_of_text|>", "<|end_of_text|>", "<|eot_id|>"
SPECIALS = (BOS, EOS, EOT)

OPERAND_COUNT = 100
# Operands of a question are random: little can be learned from predicting them.
PROMPT_WEIGHT = 0.05
# Lists are long, easy and begin at random: at full weight they would drown the sums.
LIST_WEIGHT = 0.3

DAYS = "Monday Tuesday Wednesday Thursday Friday Saturday Sunday".split()
MONTHS = ("January February March April May June July August September October November "
          "December").split()
WORDS = "red blue green one two three yes no up down cat dog".split()
LETTERS = "abcdefghijklmnopqrstuvwxyz"
TALK = (
    ("Hello", "Hello! Ask me a sum."),
    ("Hi", "Hello! Ask me a sum."),
    ("Who are you?", "I'm a small ternary model."),
    ("What can you do?", "I can add two numbers, count, and name days and months."),
    ("Thank you", "You're welcome."),
    ("How many days are in a week?", "7"),
    ("How many months are in a year?", "12"),
)


def is_held_out(a, b):
    """About one ordered pair in ten; a+b and b+a are drawn independently."""
    digest = hashlib.sha256(f"demo-model {a}+{b}".encode()).digest()
    return int.from_bytes(digest[:4], "big") % 10 == 0


def all_pairs():
    return [(a, b) for a in range(OPERAND_COUNT) for b in range(OPERAND_COUNT)]


def raw_sum(a, b):
    return [(f"{a}+{b}=", PROMPT_WEIGHT), (f"{a + b}{EOS}", 1.0)]


def question_sum(a, b):
    return [(f"What is {a}+{b}?", PROMPT_WEIGHT), (f" {a + b}{EOS}", 1.0)]


def chat_turn(prompt, answer):
    return [(f"User: {prompt}{EOT}Assistant: ", PROMPT_WEIGHT), (f"{answer}{EOT}", 1.0)]


def chat_sum(a, b):
    return chat_turn(f"What is {a}+{b}?", a + b)


SUM_FORMS = {"raw": raw_sum, "question": question_sum, "chat": chat_sum}


def draw_pair(rng):
    kind = rng.random()
    small, large = rng.randrange(10), rng.randrange(10, OPERAND_COUNT)
    if kind < 0.06:
        return small, rng.randrange(10)
    # Operands of unequal length are the hard ones, and only 18 % of a uniform draw.
    if kind < 0.24:
        return small, large
    if kind < 0.42:
        return large, small
    return rng.randrange(OPERAND_COUNT), rng.randrange(OPERAND_COUNT)


def training_pair(rng):
    while True:
        a, b = draw_pair(rng)
        if not is_held_out(a, b):
            return a, b


def sum_document(rng):
    kind = rng.random()
    if kind < 0.30:
        return raw_sum(*training_pair(rng))
    if kind < 0.60:
        return question_sum(*training_pair(rng))
    if kind < 0.88:
        return chat_sum(*training_pair(rng))
    if kind < 0.94:
        a, b = training_pair(rng)
        return chat_turn(rng.choice((f"{a}+{b}", f"{a}+{b}=")), a + b)
    return [part for _ in range(rng.randint(2, 3)) for part in chat_sum(*training_pair(rng))]


def numbers_between(start, end):
    return " ".join(map(str, range(start, end + 1)))


def count_question(start, end):
    return [(f"Count from {start} to {end}:", PROMPT_WEIGHT),
            (f" {numbers_between(start, end)}{EOS}", 1.0)]


def count_chat(start, end):
    return chat_turn(f"Count from {start} to {end}.", numbers_between(start, end))


COUNT_FORMS = {"question": count_question, "chat": count_chat}


def count_tasks():
    return [(start, start + span) for start in range(86) for span in range(1, 13)]


def counting(rng):
    start, end = rng.choice(count_tasks())
    kind = rng.random()
    if kind < 0.4:
        return count_question(start, end)
    if kind < 0.8:
        return count_chat(start, end)
    start = rng.choice((1, start))
    end = (start + 14) // 10 * 10  # a multiple of ten, so that the end can be foreseen
    return [(numbers_between(start, end) + EOS, LIST_WEIGHT)]


def calendar(rng):
    unit, names = rng.choice((("day", DAYS), ("month", MONTHS)))
    index = rng.randrange(len(names))
    word, step = rng.choice((("after", 1), ("before", -1)))
    name, other = names[index], names[(index + step) % len(names)]
    kind = rng.random()
    if kind < 0.25:
        separator = rng.choice((" ", ", "))
        return [(separator.join(names[rng.choice((0, index)):]) + EOS, LIST_WEIGHT)]
    if kind < 0.5:
        return [(f"The {unit} {word} {name} is", PROMPT_WEIGHT), (f" {other}.{EOS}", 1.0)]
    if kind < 0.75:
        return [(f"What {unit} comes {word} {name}?", PROMPT_WEIGHT), (f" {other}{EOS}", 1.0)]
    return chat_turn(f"What {unit} comes {word} {name}?", other)


def pattern(rng):
    kind = rng.random()
    if kind < 0.4:
        step = rng.choice((2, 2, 3, 5, 10))
        numbers = range(rng.randint(0, step), 10 * step + 1, step)
        return [(" ".join(map(str, numbers)) + EOS, LIST_WEIGHT)]
    if kind < 0.55:
        start = rng.choice((0, rng.randrange(20)))
        return [(" ".join(LETTERS[start:]) + EOS, LIST_WEIGHT)]
    period = rng.sample(rng.choice((WORDS, LETTERS, "0123456789")), rng.randint(1, 3))
    return [(" ".join((period * 20)[:20]), LIST_WEIGHT)]


def talk(rng):
    return chat_turn(*rng.choice(TALK))


def document(rng):
    make = rng.choices((sum_document, counting, calendar, pattern, talk),
                       weights=(78, 11, 6, 3, 2))[0]
    return make(rng)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--heldout", action="store_true", required=True,
                        help="print the pairs that training never sees, one 'a b' per line")
    parser.parse_args()
    for a, b in all_pairs():
        if is_held_out(a, b):
            print(a, b)


if __name__ == "__main__":
    main()
