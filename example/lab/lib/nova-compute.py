"""nova-compute with the lab's driver: Nova loads drivers from nova.virt alone, so the driver's directory joins it."""
import os
import sys

from nova.cmd import compute  # first: it patches the standard library

import nova.virt

sys.dont_write_bytecode = True  # not into the repository
nova.virt.__path__.append(os.path.join(os.path.dirname(os.path.abspath(__file__)), "driver"))
sys.argv[0] = "nova-compute"
sys.exit(compute.main())
