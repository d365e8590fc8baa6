"""Every error that a user's data can cause. Messages are sentences that a page can show as they are."""

__all__ = [
    "ArchiveError",
    "BankMismatchError",
    "CancelledError",
    "CheckpointError",
    "DatasetError",
    "DeviceError",
    "FeaturesFileError",
    "ForbiddenPathError",
    "ImageError",
    "ModelError",
    "ModelNotSetException",
    "NNGuideError",
    "NNGuideWarning",
    "RequiresFittingException",
    "StoreError",
    "UndefinedMetricError",
    "WorkersError",
]


class NNGuideError(Exception):
    """The base of everything that a user's data, files or settings can cause."""


class ImageError(NNGuideError):
    """Bytes that are no readable image, or an image over a limit."""


class ArchiveError(NNGuideError):
    """A zip that is refused as a whole."""


class DatasetError(NNGuideError):
    """A folder, zip or list that gives no usable dataset."""


class ForbiddenPathError(DatasetError):
    """A typed path that is not under an allowed root; never says whether it exists."""


class ModelError(NNGuideError):
    """A network that cannot be loaded, or whose encoder and head cannot be told apart."""


class DeviceError(NNGuideError):
    """A device to compute on that is not here."""


class CheckpointError(ModelError):
    """A checkpoint that is refused or does not fit its architecture."""


class FeaturesFileError(NNGuideError):
    """A features file whose arrays, shapes, types or values are not what was expected."""


class BankMismatchError(NNGuideError):
    """Queries that the bank cannot judge: another width, or another model."""


class UndefinedMetricError(NNGuideError):
    """A metric of an empty, one-class or non-finite side: not defined, never 0, 0.5 or 1."""


class StoreError(NNGuideError):
    """A workspace or detector file that is corrupt, foreign or of a newer version."""


class WorkersError(NNGuideError, RuntimeError):
    """Worker processes that do not start, mostly for want of memory or of processes."""


class CancelledError(NNGuideError):
    """Work that was stopped on request; what was finished before is kept."""


class RequiresFittingException(Exception):  # noqa: N818 - pytorch-ood's name, which its users catch
    """A detector was asked to predict before it was fitted."""

    def __init__(self, msg: str = "You have to call fit() before predict().") -> None:
        super().__init__(msg)


class ModelNotSetException(ValueError):  # noqa: N818 - pytorch-ood's name, which its users catch
    """A detector without an encoder was asked to judge images."""

    def __init__(self, msg: str = "No encoder was given: use predict_features() with features.") -> None:
        super().__init__(msg)


class NNGuideWarning(UserWarning):
    """Scores that are computed as asked but may mislead: energies of 0 or less, NaN or zero-norm queries."""
