"""An old home: pickles name it."""

from nirs_store.chains.replay import Facts as Facts
from nirs_store.chains.replay import Workbench as Workbench
