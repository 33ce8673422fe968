"""A box for code that agents write: `bubblewrap`, limits that the kernel holds, a Python that stays."""
