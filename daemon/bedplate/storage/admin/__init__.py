"""AdminService: status, compaction, scrub and backup of the store that this daemon serves.

service --- status   engine counters -> GetStatusResponse      pure
   |------- verify   bp_scrub  -> findings, progress, summary  a thread a step
   |------- backup   bp_backup -> header, data, trailer        a thread a step
   `------- steps    what a step in a thread and a drain owe each other
"""
