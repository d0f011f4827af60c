"""What every technique must pass, for our own tests and for third parties'."""

from .technique_contract import CHECKS as CHECKS
from .technique_contract import check_technique as check_technique
