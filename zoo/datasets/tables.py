"""The small tables kept in this package as CSV files."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from importlib.resources import as_file, files

import numpy as np

from zoo.datasets.files import read_csv
from zoo.datasets.frame import Frame


def faithful() -> Frame:
    """Old Faithful: duration of and waiting time before 272 eruptions, in minutes.

    Source: Härdle (1991), Smoothing Techniques: With Implementation in S, Springer; Azzalini and Bowman (1990), A look
    at some data on the Old Faithful geyser, Applied Statistics 39, https://doi.org/10.2307/2347385; as in R's datasets.
    """
    return _table("faithful")


def eight_schools() -> Frame:
    """Effects of coaching on SAT scores in eight schools, with standard errors, in points.

    Source: Rubin (1981), Estimation in parallel randomized experiments, J. Educ. Stat. 6,
    https://doi.org/10.3102/10769986006004377
    """
    return _table("eight_schools")


def radon() -> Frame:
    """Logarithms of radon in 919 homes of Minnesota's 85 counties, by floor.

    It was measured in the basement (0) or on the first floor (1). Counties have from 1 to 116 homes, and are numbered as there.

    Source: Gelman and Hill (2007), Data Analysis Using Regression and Multilevel/Hierarchical Models, ch. 12,
    http://www.stat.columbia.edu/~gelman/arm/; the numbers are those of ``radon_mn`` in posteriordb (BSD-3),
    https://github.com/stan-dev/posteriordb
    """
    return _table("radon").grouped("radon", "county").split("log_radon", "radon")


def dogs() -> Frame:
    """Shocks that 30 dogs received in trials 11 to 25, by how many in the first 10: some had learned to avoid all.

    In a trial a dog heard a signal, and was shocked unless it jumped in time.

    Source: the experiment of Solomon and Wynne (1953); Gelman and Hill (2007), Data Analysis Using Regression and
    Multilevel/Hierarchical Models, §24.2, http://www.stat.columbia.edu/~gelman/arm/; sums over the trials of ``dogs`` in
    posteriordb (BSD-3), https://github.com/stan-dev/posteriordb
    """
    return _table("dogs").split("later", "dogs")


def irt_2pl() -> Frame:
    """Right and wrong answers of 100 persons to 20 items, simulated from the two-parameter logistic model.

    Source: the simulated data ``irt_2pl`` of posteriordb (BSD-3), https://github.com/stan-dev/posteriordb, made for Stan's
    statistical computation benchmarks.
    """
    return _table("irt_2pl")


def python_topics() -> Frame:
    """How often each of 40 words comes in each of 48 help topics of Python 3.11.

    Words have three letters or more, in lower case, and scikit-learn's English stop words are left out; of those in 8 to 40 of
    all 79 topics these are the 40 that come most often. Topics with fewer than 20 of them are left out.

    Source: counted in ``pydoc_data.topics`` of Python 3.11.7, which is made from its language reference,
    https://docs.python.org/3.11/reference/ (PSF licence)
    """
    frame = _table("python_topics")
    return Frame(frame.data.drop(columns="topic"), rows=tuple(frame.data["topic"]))


def kilpisjarvi() -> Frame:
    """Mean temperature of June to August at Kilpisjärvi in the north of Finland, in °C, each year from 1952 to 2013.

    Source: posteriordb (BSD 3-clause), ``kilpisjarvi_mod``, which counts the years from 3952,
    https://github.com/stan-dev/posteriordb; Finnish Meteorological Institute.
    """
    return _table("kilpisjarvi").split("temperature", "kilpisjarvi")


def ratings() -> Frame:
    """Simulated ratings of 18 films by 36 users, from half a star to 5 stars: of 648 pairs 388 are seen. No real people.

    With NumPy's ``default_rng(1)``: 3.4 + N(0, 0.4²) of the user + N(0, 0.5²) of the film + the product of two factors, N(0, 1)
    of the user and N(0, 0.7²) of the film, + N(0, 0.5²), rounded to half stars. A pair is seen with probability 0.6, whatever
    its rating.
    """
    return _table("ratings")


def geyser() -> Frame:
    """Old Faithful's eruptions of :func:`faithful` in the order in which they were seen, cut into 34 sequences of 8.

    A short eruption is nearly always followed by a long one: durations of neighbours have a correlation of −0.55. They are one
    series; the cuts make its pieces independent.

    Source: as :func:`faithful`; Azzalini and Bowman (1990) fit Markov chains to such a series.
    """
    data = faithful().data
    return Frame(data.assign(sequence=np.arange(len(data)) // 8))


def __getattr__(name: str) -> Callable[[], Frame]:
    """Serve any other CSV file of ``zoo/datasets/csv`` under its name: a data set is a file and a registry line."""
    if not (files("zoo.datasets") / "csv" / f"{name}.csv").is_file():
        raise AttributeError(f"no table '{name}.csv' in zoo/datasets/csv")
    return partial(_table, name)


def _table(name: str) -> Frame:
    with as_file(files("zoo.datasets") / "csv" / f"{name}.csv") as path:
        return read_csv(path)
