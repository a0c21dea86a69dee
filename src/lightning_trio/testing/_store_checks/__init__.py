"""The rules of a store, one small check each, by what they are about."""

from ._persistence import check_reopened as check_reopened
from ._steps import Check as Check
from ._suite import CHECKS as CHECKS
