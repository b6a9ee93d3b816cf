"""Objects on top of the replicated key-value store: buckets, uploads, downloads, listing, reclaim.

    service ── streams ─┬─ upload ───┐                pure: names keys records conditions ranges
       │                └─ download ─┤                      tokens listing checksums wire
       ├─ buckets  objects  multipart ┴─ core ── store ── the engine, keyspace "o"
       └─ reaper

Everything lives in the keys that keys.py draws. A change of what clients see is one transaction
that compares all it was decided on; what goes wrong half-way leaves records that the reaper turns
into free space. Nothing is decided by a scan of what is marked or not.
"""
