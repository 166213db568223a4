"""Log-probabilities and the largest logits against numpy: of a context's rows, and of rows that any engine computed."""

from ctypes import POINTER, c_double, c_float, c_int32, c_size_t, c_void_p

import numpy as np
import pytest


def pointer(array, kind):
    return array.ctypes.data_as(POINTER(kind))


def log_softmax(rows):
    """In extended precision: the expected value is nearer than the tolerance."""
    rows = rows.astype(np.longdouble)
    largest = rows.max(axis=1, keepdims=True)
    return rows - largest - np.log(np.exp(rows - largest).sum(axis=1, keepdims=True))


@pytest.fixture(scope="module")
def logprobs(library):
    dll = library.dll
    dll.bitnet_logprobs.restype = c_int32
    dll.bitnet_logprobs.argtypes = [POINTER(c_float), c_size_t, c_size_t, POINTER(c_int32), POINTER(c_double)]

    def call(rows, tokens):
        rows, tokens = np.ascontiguousarray(rows, np.float32), np.ascontiguousarray(tokens, np.int32)
        out = np.full(len(tokens), -99.0)
        library.check(dll.bitnet_logprobs(pointer(rows, c_float), *rows.shape, pointer(tokens, c_int32), pointer(out, c_double)))
        return out

    return call


def test_of_any_rows(logprobs):
    random = np.random.default_rng(7)
    for n_rows, n_vocab, scale in ((1, 1, 1), (5, 7, 1), (3, 512, 30), (2, 128256, 8), (4, 33, 1e30), (1, 100, 0)):
        rows = (random.standard_normal((n_rows, n_vocab)) * scale).astype(np.float32)
        for tokens in (random.integers(n_vocab, size=n_rows), rows.argmax(axis=1)):
            expected = log_softmax(rows)[np.arange(n_rows), tokens]
            rounding = n_vocab * np.finfo(float).eps  # of a sum in the order of the ids
            np.testing.assert_allclose(logprobs(rows, tokens), expected.astype(float), rtol=1e-13, atol=rounding)


def test_masked_and_broken_rows(logprobs):
    masked = np.array([[0.0, -np.inf, 1.0], [-np.inf, 2.0, -np.inf]], np.float32)
    with np.errstate(all="ignore"):
        expected = log_softmax(masked)
    got = logprobs(masked, [2, 1])
    np.testing.assert_allclose(got, [expected[0, 2], 0.0], rtol=1e-14)
    assert logprobs(masked, [1, 0]).tolist() == [-np.inf, -np.inf]
    for broken in (np.nan, np.inf):
        for at in range(3):
            row = np.array([[0.0, 1.0, 2.0]], np.float32)
            row[0, at] = broken
            assert np.isnan(logprobs(row, [1])[0]), (broken, at)
    assert np.isnan(logprobs(np.full((1, 4), -np.inf, np.float32), [0])[0])


def test_refused(library, logprobs):
    rows = np.zeros((3, 10), np.float32)
    for token in (-1, 10):
        with pytest.raises(Exception, match=r"token 1 is .*: expected 0 to 9"):
            logprobs(rows, [0, token, 0])
    with pytest.raises(Exception, match="n_vocab is 0"):
        logprobs(np.zeros((1, 0), np.float32), [0])
    assert logprobs(np.zeros((0, 4), np.float32), []).size == 0


def test_of_a_context(library, small_gguf, logprobs):
    """The context's own functions give the same numbers as its rows do outside."""
    dll = library.dll
    dll.bitnet_token_logprobs.argtypes = [c_void_p, POINTER(c_int32), c_size_t, POINTER(c_double)]
    dll.bitnet_top_logits.argtypes = [c_void_p, c_int32, c_int32, POINTER(c_int32), POINTER(c_float)]
    context = library.load(small_gguf).context(threads=1)
    tokens = np.array([11, 48, 85, 122, 159, 196, 233], np.int32)
    rows = context.eval(tokens.tolist())
    asked = np.roll(tokens, -1)[:-1].copy()  # the next token at every position: what a perplexity is made of
    got = np.empty(len(asked))
    library.check(dll.bitnet_token_logprobs(context.handle, pointer(asked, c_int32), len(asked), pointer(got, c_double)))
    expected = log_softmax(rows[:-1])[np.arange(len(asked)), asked]
    np.testing.assert_allclose(got, expected.astype(float), rtol=1e-13)
    assert got.tobytes() == logprobs(rows[:-1], asked).tobytes()
    for k in (1, 5, rows.shape[1]):
        ids, values = np.empty(k, np.int32), np.empty(k, np.float32)
        library.check(dll.bitnet_top_logits(context.handle, 3, k, pointer(ids, c_int32), pointer(values, c_float)))
        order = np.argsort(-rows[3], kind="stable")[:k]
        assert ids.tolist() == order.tolist()
        assert values.tobytes() == rows[3][order].tobytes()
