/*
 * The commands: each measures one work in the scratch directory and prints its records. 0 or an
 * exit status.
 */
#ifndef BENCH_COMMANDS_H
#define BENCH_COMMANDS_H

#include "settings.h"

int command_put(const struct settings *settings);
int command_raw(const struct settings *settings);
int command_async(const struct settings *settings);
int command_get(const struct settings *settings);
int command_scan(const struct settings *settings);
int command_recover(const struct settings *settings);
int command_memory(const struct settings *settings);
int command_crc(const struct settings *settings);

#endif
