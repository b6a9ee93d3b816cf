/*
 * CRC32C (Castagnoli, polynomial 0x1EDC6F41 reflected), the checksum of every byte the store keeps.
 */
#ifndef BP_CRC32C_H
#define BP_CRC32C_H

#include <stddef.h>
#include <stdint.h>

#include "../include/bedplate.h"

/*
 * bp_crc32c (bedplate.h): extend `crc` (0 to start) over `n` bytes: crc32c("123456789") is
 * 0xE3069283. Fastest implementation of this processor.
 */
/* The portable table version, for equality tests and processors without the instruction. */
uint32_t bp_crc32c_table(uint32_t crc, const void *data, size_t n);
/* crc(A || B) from crc(A), crc(B) and the length of B, in O(log n). */
uint32_t bp_crc32c_combine(uint32_t crc_a, uint32_t crc_b, uint64_t length_b);
/* "sse4.2", "armv8" or "table". */
const char *bp_crc32c_implementation(void);

#endif
