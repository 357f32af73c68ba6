"""The published ABI of the RMM, declared once, as tables.

:mod:`rmm.abi.rmi`, :mod:`rmm.abi.rsi` and :mod:`rmm.abi.psci` list the commands, :mod:`rmm.abi.registers` the values
with bit fields, :mod:`rmm.abi.structures` the pages passed in memory. Handlers, the tracer, the replayer and the
documentation derive from these tables; :mod:`rmm.abi.fields` is how they are declared.
"""
