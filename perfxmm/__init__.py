"""perfxmm: what was in the vector registers when that sample hit, and may it be believed?"""

__version__ = "0.1.0"
