"""The types that a payload without pickles may hold, and who may add to them."""

import os
import sys
from collections.abc import Iterable
from importlib.metadata import entry_points
from pathlib import Path

__all__ = [
    "CHEMOTOOLS",
    "TRUSTED_GROUP",
    "WORKSPACE_TYPES",
    "always_trusted",
    "configuration_file",
    "is_plain_estimator",
]

# -- Which types a skops payload may hold, and who may add to them.


TRUSTED_GROUP = "nirs_store.trusted_types"
_FILE = "trusted-types.txt"

# By package and class, because the private modules between them move from one version to the next.
_PLAIN: dict[str, frozenset[str]] = {
    package: frozenset(names.split())
    for package, names in {
        "compose": "ColumnTransformer TransformedTargetRegressor",
        "covariance": "EmpiricalCovariance EllipticEnvelope LedoitWolf MinCovDet OAS ShrunkCovariance",
        "cross_decomposition": "CCA PLSCanonical PLSRegression PLSSVD",
        "decomposition": "FactorAnalysis FastICA IncrementalPCA KernelPCA PCA SparsePCA TruncatedSVD",
        "discriminant_analysis": "LinearDiscriminantAnalysis QuadraticDiscriminantAnalysis",
        "dummy": "DummyClassifier DummyRegressor",
        # Forests, and what holds other estimators: they only call them. Their trees need to be named.
        "ensemble": "AdaBoostClassifier AdaBoostRegressor BaggingClassifier BaggingRegressor "
        "ExtraTreesClassifier ExtraTreesRegressor RandomForestClassifier RandomForestRegressor "
        "StackingClassifier StackingRegressor VotingClassifier VotingRegressor",
        "feature_selection": "GenericUnivariateSelect RFE RFECV SelectFdr SelectFpr SelectFromModel SelectFwe "
        "SelectKBest SelectPercentile SequentialFeatureSelector VarianceThreshold",
        "frozen": "FrozenEstimator",
        "impute": "IterativeImputer KNNImputer MissingIndicator SimpleImputer",
        "kernel_approximation": "RBFSampler",
        "kernel_ridge": "KernelRidge",
        "linear_model": "ARDRegression BayesianRidge ElasticNet ElasticNetCV HuberRegressor Lars LarsCV Lasso "
        "LassoCV LassoLars LassoLarsCV LassoLarsIC LinearRegression LogisticRegression LogisticRegressionCV "
        "MultiTaskElasticNet MultiTaskElasticNetCV MultiTaskLasso MultiTaskLassoCV OrthogonalMatchingPursuit "
        "OrthogonalMatchingPursuitCV QuantileRegressor RANSACRegressor Ridge RidgeCV RidgeClassifier "
        "RidgeClassifierCV SGDClassifier SGDRegressor TheilSenRegressor",
        "multiclass": "OneVsOneClassifier OneVsRestClassifier OutputCodeClassifier",
        "multioutput": "ClassifierChain MultiOutputClassifier MultiOutputRegressor RegressorChain",
        "naive_bayes": "BernoulliNB ComplementNB GaussianNB MultinomialNB",
        "neural_network": "MLPClassifier MLPRegressor",
        "pipeline": "FeatureUnion Pipeline",
        "preprocessing": "Binarizer FunctionTransformer KBinsDiscretizer KernelCenterer LabelBinarizer "
        "LabelEncoder MaxAbsScaler MinMaxScaler Normalizer OneHotEncoder OrdinalEncoder PolynomialFeatures "
        "PowerTransformer QuantileTransformer RobustScaler StandardScaler",
        "random_projection": "GaussianRandomProjection",
        "svm": "LinearSVC LinearSVR",
        "tree": "DecisionTreeClassifier DecisionTreeRegressor ExtraTreeClassifier ExtraTreeRegressor",
    }.items()
}

#: Transformers of chemotools 0.5 whose code was read: numpy and scipy on arrays of checked shape, no file, no
#: import by name, no callable from their state. Not among them: those that take a function
#: (MetadataFunctionTransformer), outlier detectors, inspectors, plots, and the PLS that another package brings.
CHEMOTOOLS: frozenset[str] = frozenset(
    f"chemotools.{path}"
    for path in (
        "adaptation._direct_standardization.DirectStandardization",
        "adaptation._piecewise_direct_standardization.PiecewiseDirectStandardization",
        "adaptation._spectral_space_transform.SpectralSpaceTransform",
        "adaptation._x_axis_interpolator.XAxisInterpolator",
        "baseline._air_pls.AirPls",
        "baseline._ar_pls.ArPls",
        "baseline._as_ls.AsLs",
        "baseline._constant_baseline_correction.ConstantBaselineCorrection",
        "baseline._cubic_spline_correction.CubicSplineCorrection",
        "baseline._linear_correction.LinearCorrection",
        "baseline._non_negative.NonNegative",
        "baseline._polynomial_correction.PolynomialCorrection",
        "baseline._rubberband_correction.RubberbandCorrection",
        "baseline._subtract_reference.SubtractReference",
        "derivative._norris_william.NorrisWilliams",
        "derivative._savitzky_golay.SavitzkyGolay",
        "feature_selection._index_selector.IndexSelector",
        "feature_selection._range_cut.RangeCut",
        "feature_selection._sr_selector.SRSelector",
        "feature_selection._vip_selector.VIPSelector",
        "physics._intensity_conversion.IntensityConversion",
        "projection._direct_orthogonalization.DirectOrthogonalization",
        "projection._external_parameter_orthogonalization.ExternalParameterOrthogonalization",
        "projection._orthogonal_pls.OrthogonalPLS",
        "projection._orthogonal_signal_correction.OrthogonalSignalCorrection",
        "scale._band_scaler.BandScaler",
        "scale._min_max_scaler.MinMaxScaler",
        "scale._norm_scaler.NormScaler",
        "scale._pareto_scaler.ParetoScaler",
        "scale._point_scaler.PointScaler",
        "scatter._extended_multiplicative_scatter_correction.ExtendedMultiplicativeScatterCorrection",
        "scatter._multiplicative_scatter_correction.MultiplicativeScatterCorrection",
        "scatter._robust_normal_variate.RobustNormalVariate",
        "scatter._standard_normal_variate.StandardNormalVariate",
        "smooth._mean_filter.MeanFilter",
        "smooth._median_filter.MedianFilter",
        "smooth._modified_sinc_smoother.ModifiedSincFilter",
        "smooth._savitzky_golay_filter.SavitzkyGolayFilter",
        "smooth._whittaker_smooth.WhittakerSmooth",
        "utils._whittaker_solvers.BandedSolver",
    )
)

# A dict whose keys are attributes as well; what stacked and voting models keep their parts in.
_BUNCH = "sklearn.utils._bunch.Bunch"

#: Types that skops does not trust, or that a bundle has to be trusted with, and that a workspace loads from
#: blobs of its own: those come from an object that lived here, or from an import that a user allowed.
WORKSPACE_TYPES: frozenset[str] = frozenset(
    {
        "numpy.dtype",
        "numpy.random.mtrand.RandomState",
        "sklearn.compose._column_transformer._RemainderColsList",
        "sklearn.ensemble._hist_gradient_boosting.predictor.TreePredictor",
        "sklearn.feature_selection._mutual_info.mutual_info_classif",
        "sklearn.feature_selection._mutual_info.mutual_info_regression",
        "sklearn.feature_selection._univariate_selection.chi2",
        "sklearn.feature_selection._univariate_selection.f_classif",
        "sklearn.feature_selection._univariate_selection.f_regression",
        "sklearn.feature_selection._univariate_selection.r_regression",
        "sklearn.impute._iterative._ImputerTriplet",
        "sklearn.metrics._dist_metrics.EuclideanDistance64",
        "sklearn.metrics._dist_metrics.MinkowskiDistance64",
        "sklearn.metrics._dist_metrics.ManhattanDistance64",
        "sklearn.multiclass._ConstantPredictor",
        "sklearn.neighbors._ball_tree.BallTree",
        "sklearn.neighbors._ball_tree.BallTree64",
        "sklearn.neighbors._kd_tree.KDTree",
        "sklearn.neighbors._kd_tree.KDTree64",
        "sklearn.neural_network._stochastic_optimizers.AdamOptimizer",
        "sklearn.neural_network._stochastic_optimizers.SGDOptimizer",
        "sklearn.tree._tree.Tree",
        *(
            f"sklearn.model_selection._split.{splitter}"
            for splitter in (
                "GroupKFold",
                "GroupShuffleSplit",
                "KFold",
                "LeaveOneGroupOut",
                "LeaveOneOut",
                "LeavePGroupsOut",
                "LeavePOut",
                "PredefinedSplit",
                "RepeatedKFold",
                "RepeatedStratifiedKFold",
                "ShuffleSplit",
                "StratifiedGroupKFold",
                "StratifiedKFold",
                "StratifiedShuffleSplit",
                "TimeSeriesSplit",
            )
        ),
        *(
            f"sklearn.gaussian_process.kernels.{kernel}"
            for kernel in (
                "ConstantKernel",
                "DotProduct",
                "ExpSineSquared",
                "Exponentiation",
                "Matern",
                "Product",
                "RBF",
                "RationalQuadratic",
                "Sum",
                "WhiteKernel",
            )
        ),
    }
)


def is_plain_estimator(name: str) -> bool:
    """Tell whether a scikit-learn class predicts by array arithmetic alone, or only calls others.

    Examples
    --------
    >>> is_plain_estimator("sklearn.cross_decomposition._pls.PLSRegression")
    True
    >>> is_plain_estimator("sklearn.svm._classes.SVR")
    False
    """
    parts = name.split(".")
    if len(parts) < 3 or parts[0] != "sklearn" or parts[-1] not in _PLAIN.get(parts[1], ()):
        return False
    return all(part.startswith("_") for part in parts[2:-1])


def always_trusted() -> frozenset[str]:
    """List the types beyond scikit-learn's own that this user trusts in every payload.

    Our own list for chemotools, what installed packages declare, and the user's configuration file.
    """
    names = {*CHEMOTOOLS, _BUNCH}
    for entry_point in entry_points(group=TRUSTED_GROUP):
        declared = entry_point.load()
        names.update([declared] if isinstance(declared, str) else map(str, declared))
    return frozenset(names | set(_configured()))


def configuration_file() -> Path:
    """Return the file in which a user names trusted types, one per line; it need not exist.

    ``nirs-store/trusted-types.txt`` in the folder for configuration of the operating system
    (``XDG_CONFIG_HOME`` or ``~/.config``, ``~/Library/Application Support``, ``%APPDATA%``).
    """
    if sys.platform == "win32":
        base = Path(os.environ.get("APPDATA") or Path.home() / "AppData" / "Roaming")
    elif sys.platform == "darwin":
        base = Path.home() / "Library" / "Application Support"
    else:
        base = Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config")
    return base / "nirs-store" / _FILE


def _configured() -> Iterable[str]:
    try:
        lines = configuration_file().read_text(encoding="utf-8").splitlines()
    except (FileNotFoundError, NotADirectoryError):
        return []
    stripped = (line.partition("#")[0].strip() for line in lines)
    return [line for line in stripped if line]
