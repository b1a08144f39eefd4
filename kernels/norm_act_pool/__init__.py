"""BatchNorm, PReLU and 2×2 max-pooling as one operation."""

from kernels.norm_act_pool.api import Implementation as Implementation
from kernels.norm_act_pool.api import norm_act_pool as norm_act_pool
from kernels.norm_act_pool.api import norm_act_pool_inference as norm_act_pool_inference
