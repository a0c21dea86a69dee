"""Algorithms, which choose the rollouts to run and learn from them."""

from ._algorithm import Algorithm as Algorithm
from ._algorithm import FastAlgorithm as FastAlgorithm
from ._algorithm import FunctionalAlgorithm as FunctionalAlgorithm
from ._algorithm import algo as algo
from ._baseline import Baseline as Baseline
from ._baseline import check_given as check_given
from ._datasets import Dataset as Dataset
from ._datasets import Datasets as Datasets
from ._datasets import check_dataset as check_dataset
from ._datasets import digest_of_resources as digest_of_resources
from ._datasets import is_other_task as is_other_task
from ._session import Session as Session
from ._session import index_of_key as index_of_key
from ._session import keys_of_other_task as keys_of_other_task
from ._tables import check_tasks as check_tasks

# The other names are for this package's own use.
__all__ = ["Algorithm", "Baseline", "Dataset", "FastAlgorithm", "FunctionalAlgorithm", "Session", "algo"]
