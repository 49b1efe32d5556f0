"""An old home: pickles name it."""

from nirs_store.chains.plan import Operator as Operator
from nirs_store.chains.plan import Step as Step
