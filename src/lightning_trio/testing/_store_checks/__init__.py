"""The rules of a store, one small check each, one module per subject."""

from ._persistence import check_reopened as check_reopened
from ._steps import Check as Check
from ._suite import CHECKS as CHECKS
