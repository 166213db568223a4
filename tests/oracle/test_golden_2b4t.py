"""The real BitNet b1.58 2B-4T: logits that the published model gives (float32 compute). Needs the 1.2 GB file, which is
not part of this repository: BITNET_2B4T_GGUF=/path/to/ggml-model-i2_s.gguf."""

import os

import numpy as np
import pytest

IDS = [128000, 128000, 1502, 25, 2650, 527, 499, 30, 128009, 72803, 25, 220]
MEANS = [-1.8665, -1.7681, -1.7043, 3.7446, 2.7730, 4.7133, 0.9768, -3.5018, -12.2812, -8.1477, -10.2571, -8.7610]
FIRST = [5.5815, 4.9154, 1.0478, 4.3869, 3.0112, 0.8235, 3.8412, 2.9233, 8.1140, 1.9406]  # of position 0
PATH = os.environ.get("BITNET_2B4T_GGUF")


@pytest.mark.skipif(not PATH, reason="BITNET_2B4T_GGUF does not name the model file")
def test_golden_logits(library):
    logits = library.load(PATH).context(threads=0, n_ctx=64).eval(IDS)
    np.testing.assert_allclose(logits.mean(axis=1, dtype=np.float64), MEANS, rtol=0, atol=1e-2)
    np.testing.assert_allclose(logits[0, : len(FIRST)], FIRST, rtol=0, atol=1e-4)
