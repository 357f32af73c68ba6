"""The guest's device tree, property for property and byte for byte as libxl makes it.

Enter at :func:`toolstack.dtb.render.render` (a :class:`~toolstack.dtb.spec.DeviceTreeSpec` to a blob with
placeholders), then :func:`toolstack.dtb.finalise.finalise` (the places and sizes that are known only when the blob's
size is), and :func:`toolstack.dtb.dts.to_dts` for a text of any blob.

Notes. The tree is written as text in ``guest.dts.j2``, one statement a line: that is the dialect which
``fdt.parse_dts`` reads faithfully. It drops one-line nodes and empty strings, and cuts strings at ``//`` and ``;``, all
without a word; so nothing that a user typed goes through the template. Such values are set on the parsed tree, as bytes
(:mod:`toolstack.dtb.render`). The blob is written by :mod:`toolstack.dtb.flatten` and not by ``fdt``, because libxl's
bytes are those of libfdt's sequential writer (order and sharing of the strings), and finalised in place
(:mod:`toolstack.dtb.blob`), because libxl does that and leaves NOPs and a stale tail behind. The device tree is part of
a Realm's measurement, so that each byte counts.
"""
