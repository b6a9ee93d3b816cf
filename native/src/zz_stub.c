/* TEMPORARY while keeper, clean, reserve land. */
#include "store.h"
#define W __attribute__((weak))
W int bp_backup_new(bp_store*a,bp_backup**b,uint64_t*c,struct bp_error*e){(void)a;(void)b;(void)c;return bp_fail(e,13,0,"not yet");}
W int bp_backup_next(bp_backup*a,void*b,uint64_t c,uint64_t*d,struct bp_error*e){(void)a;(void)b;(void)c;(void)d;return bp_fail(e,13,0,"not yet");}
W void bp_backup_free(bp_backup*a){(void)a;}
W int bp_fsck(const char*a,const char*b,struct bp_reply*c,struct bp_error*e){(void)a;(void)b;(void)c;return bp_fail(e,13,0,"not yet");}
W int bp_restore(const struct bp_options*a,const char*b,struct bp_error*e){(void)a;(void)b;return bp_fail(e,13,0,"not yet");}
W bp_scrub*bp_scrub_new(bp_store*a){(void)a;return 0;}
W int bp_scrub_next(bp_scrub*a,struct bp_finding*b,uint64_t*c,struct bp_error*e){(void)a;(void)b;(void)c;return bp_fail(e,13,0,"not yet");}
W void bp_scrub_free(bp_scrub*a){(void)a;}

