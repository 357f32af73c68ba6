"""The Realm Management Monitor (DEN0137 2.0-bet1): firmware at R-EL2.

Hosts know only :mod:`rmm.abi`, the published ABI. :func:`rmm.monitor.boot` is what the board's loader calls.
"""
