/*
 * Constants of CRC32C, all of them powers of x modulo P = 0x1EDC6F41, bit-reflected: bit 31 is x^0,
 * bit 0 is x^31.
 *
 *   BP_CRC_BASIS_j         k-th: what bit k of a byte with j bytes behind it adds: x^(39 + 8j - k)
 *   bp_crc_table[j][b]     the same for a whole byte: the sum over its bits, for slicing-by-8
 *   bp_crc_lane[w]         {x^(128w - 33), x^(64w - 33)}: carries a CRC over two lanes, one lane
 *   bp_crc_carry[k]        x^(8 * 2^k - 33): over 2^k bytes, by clmul and one crc32 step
 *   bp_crc_shift[k]        x^(8 * 2^k): the same for plain multiplication
 *
 * The 33: the product of two reflected 32-bit numbers is reflected in 63 bits, so a 64-bit register
 * holds it times x, and the crc32 instruction that reduces it multiplies by x^32. The order of x is
 * 2^31 - 1, so x^(2^(k + 31)) = x^(2^k) and 31 entries serve every length.
 *
 * test_crc32c recomputes all of them from P.
 */
#ifndef BP_CRC32C_TABLES_H
#define BP_CRC32C_TABLES_H

#include <stdint.h>

/* clang-format off */

#define BP_CRC_BASIS_0                                                                             \
    0xf26b8303, 0xe13b70f7, 0xc79a971f, 0x8ad958cf, 0x105ec76f, 0x20bd8ede, 0x417b1dbc, 0x82f63b78
#define BP_CRC_BASIS_1                                                                             \
    0x13a29877, 0x274530ee, 0x4e8a61dc, 0x9d14c3b8, 0x3fc5f181, 0x7f8be302, 0xff17c604, 0xfbc3faf9
#define BP_CRC_BASIS_2                                                                             \
    0xa541927e, 0x4f6f520d, 0x9edea41a, 0x38513ec5, 0x70a27d8a, 0xe144fb14, 0xc76580d9, 0x8b277743
#define BP_CRC_BASIS_3                                                                             \
    0xdd45aab8, 0xbf672381, 0x7b2231f3, 0xf64463e6, 0xe964b13d, 0xd725148b, 0xaba65fe7, 0x52a0c93f
#define BP_CRC_BASIS_4                                                                             \
    0x38116fac, 0x7022df58, 0xe045beb0, 0xc5670b91, 0x8f2261d3, 0x1ba8b557, 0x37516aae, 0x6ea2d55c
#define BP_CRC_BASIS_5                                                                             \
    0xef306b19, 0xdb8ca0c3, 0xb2f53777, 0x6006181f, 0xc00c303e, 0x85f4168d, 0x0e045beb, 0x1c08b7d6
#define BP_CRC_BASIS_6                                                                             \
    0x68032cc8, 0xd0065990, 0xa5e0c5d1, 0x4e2dfd53, 0x9c5bfaa6, 0x3d5b83bd, 0x7ab7077a, 0xf56e0ef4
#define BP_CRC_BASIS_7                                                                             \
    0x493c7d27, 0x9278fa4e, 0x211d826d, 0x423b04da, 0x847609b4, 0x0d006599, 0x1a00cb32, 0x34019664

/* A byte's entry is linear in its bits, so eight numbers make a table of 256 at compile time. */
#define BP_CRC_SUM(i, a, b, c, d, e, f, g, h)                                                      \
    (((i) & 1u ? (a) : 0u) ^ ((i) & 2u ? (b) : 0u) ^ ((i) & 4u ? (c) : 0u) ^                       \
     ((i) & 8u ? (d) : 0u) ^ ((i) & 16u ? (e) : 0u) ^ ((i) & 32u ? (f) : 0u) ^                     \
     ((i) & 64u ? (g) : 0u) ^ ((i) & 128u ? (h) : 0u))
#define BP_CRC_BYTE(i, ...) BP_CRC_SUM(i, __VA_ARGS__)
#define BP_CRC_4(i, ...)                                                                           \
    BP_CRC_BYTE(i, __VA_ARGS__), BP_CRC_BYTE((i) + 1u, __VA_ARGS__),                               \
        BP_CRC_BYTE((i) + 2u, __VA_ARGS__), BP_CRC_BYTE((i) + 3u, __VA_ARGS__)
#define BP_CRC_16(i, ...)                                                                          \
    BP_CRC_4(i, __VA_ARGS__), BP_CRC_4((i) + 4u, __VA_ARGS__), BP_CRC_4((i) + 8u, __VA_ARGS__),    \
        BP_CRC_4((i) + 12u, __VA_ARGS__)
#define BP_CRC_64(i, ...)                                                                          \
    BP_CRC_16(i, __VA_ARGS__), BP_CRC_16((i) + 16u, __VA_ARGS__),                                  \
        BP_CRC_16((i) + 32u, __VA_ARGS__), BP_CRC_16((i) + 48u, __VA_ARGS__)
#define BP_CRC_256(...)                                                                            \
    BP_CRC_64(0u, __VA_ARGS__), BP_CRC_64(64u, __VA_ARGS__), BP_CRC_64(128u, __VA_ARGS__),         \
        BP_CRC_64(192u, __VA_ARGS__)

static const uint32_t bp_crc_table[8][256] = {
    {BP_CRC_256(BP_CRC_BASIS_0)}, {BP_CRC_256(BP_CRC_BASIS_1)},
    {BP_CRC_256(BP_CRC_BASIS_2)}, {BP_CRC_256(BP_CRC_BASIS_3)},
    {BP_CRC_256(BP_CRC_BASIS_4)}, {BP_CRC_256(BP_CRC_BASIS_5)},
    {BP_CRC_256(BP_CRC_BASIS_6)}, {BP_CRC_256(BP_CRC_BASIS_7)},
};

enum { BP_CRC_SHIFTS = 31 };
static const uint32_t bp_crc_shift[BP_CRC_SHIFTS] = {
    0x00800000, 0x00008000, 0x82f63b78, 0x6ea2d55c, 0x18b8ea18, 0x510ac59a, 0xb82be955, 0xb8fdb1e7,
    0x88e56f72, 0x74c360a4, 0xe4172b16, 0x0d65762a, 0x35d73a62, 0x28461564, 0xbf455269, 0xe2ea32dc,
    0xfe7740e6, 0xf946610b, 0x3c204f8f, 0x538586e3, 0x59726915, 0x734d5309, 0xbc1ac763, 0x7d0722cc,
    0xd289cabe, 0xe94ca9bc, 0x05b74f3f, 0xa51e1f42, 0x40000000, 0x20000000, 0x08000000,
};

/* The processors with an instruction for it. */
#if defined(__x86_64__) || (defined(__aarch64__) && defined(__linux__))

static const uint32_t bp_crc_carry[BP_CRC_SHIFTS] = {
    0xbf818109, 0x780d5a4d, 0x05ec76f1, 0x00000001, 0x493c7d27, 0xba4fc28e, 0x9e4addf8, 0x0d3b6092,
    0xb9e02b86, 0xdd7e3b0c, 0x170076fa, 0xa51b6135, 0x82f89c77, 0x54a86326, 0x1dc403cc, 0x5ae703ab,
    0xc5013a36, 0xac2ac6dd, 0x9b4615a9, 0x688d1c61, 0xf6af14e6, 0xb6ffe386, 0xb717425b, 0x478b0d30,
    0x54cc62e5, 0x7b2102ee, 0x8a99adef, 0xa7568c8f, 0xd610d67e, 0x6b086b3f, 0xd94f3c0b,
};

enum { BP_CRC_LANE_WORDS_MAX = 170 }; /* three lanes of it are 4,080 of a block's 4,096 bytes */
static const uint32_t bp_crc_lane[BP_CRC_LANE_WORDS_MAX + 1][2] = {
    {0xa9cdda0d, 0xa9cdda0d}, {0x493c7d27, 0x00000001}, {0xba4fc28e, 0x493c7d27},
    {0xddc0152b, 0xf20c0dfe}, {0x9e4addf8, 0xba4fc28e}, {0x39d3b296, 0x3da6d0cb},
    {0x0715ce53, 0xddc0152b}, {0x47db8317, 0x1c291d04}, {0x0d3b6092, 0x9e4addf8},
    {0xc96cfdc0, 0x740eef02}, {0x878a92a7, 0x39d3b296}, {0xdaece73e, 0x083a6eec},
    {0xab7aff2a, 0x0715ce53}, {0x2162d385, 0xc49f4f67}, {0x83348832, 0x47db8317},
    {0x299847d5, 0x2ad91c30}, {0xb9e02b86, 0x0d3b6092}, {0x18b33a4e, 0x6992cea2},
    {0xb6dd949b, 0xc96cfdc0}, {0x78d9ccb7, 0x7e908048}, {0xbac2fd7b, 0x878a92a7},
    {0xa60ce07b, 0x1b3d8f29}, {0xce7f39f4, 0xdaece73e}, {0x61d82e56, 0xf1d0f55e},
    {0xd270f1a2, 0xab7aff2a}, {0xc619809d, 0xa87ab8a8}, {0x2b3cac5d, 0x2162d385},
    {0x65863b64, 0x8462d800}, {0x1b03397f, 0x83348832}, {0xebb883bd, 0x71d111a8},
    {0xb3e32c28, 0x299847d5}, {0x064f7f26, 0xffd852c6}, {0xdd7e3b0c, 0xb9e02b86},
    {0xf285651c, 0xdcb17aa4}, {0x10746f3c, 0x18b33a4e}, {0xc7a68855, 0xf37c5aee},
    {0x271d9844, 0xb6dd949b}, {0x8e766a0c, 0x6051d5a2}, {0x93a5f730, 0x78d9ccb7},
    {0x6cb08e5c, 0x18b0d4ff}, {0x6b749fb2, 0xbac2fd7b}, {0x1393e203, 0x21f3d99c},
    {0xcec3662e, 0xa60ce07b}, {0x96c515bb, 0x8f158014}, {0xe6fc4e6a, 0xce7f39f4},
    {0x8227bb8a, 0xa00457f7}, {0xb0cd4768, 0x61d82e56}, {0x39c7ff35, 0x8d6d2c43},
    {0xd7a4825c, 0xd270f1a2}, {0x0ab3844b, 0x00ac29cf}, {0x0167d312, 0xc619809d},
    {0xf6076544, 0xe9adf796}, {0x26f6a60a, 0x2b3cac5d}, {0xa741c1bf, 0x96638b34},
    {0x98d8d9cb, 0x65863b64}, {0x49c3cc9c, 0xe0e9f351}, {0x68bce87a, 0x1b03397f},
    {0x57a3d037, 0x9af01f2d}, {0x6956fc3b, 0xebb883bd}, {0x42d98888, 0x2cff42cf},
    {0x3771e98f, 0xb3e32c28}, {0xb42ae3d9, 0x88f25a3a}, {0x2178513a, 0x064f7f26},
    {0xe0ac139e, 0x4e36f0b0}, {0x170076fa, 0xdd7e3b0c}, {0x444dd413, 0xbd6f81f8},
    {0x6f345e45, 0xf285651c}, {0x41d17b64, 0x91c9bd4b}, {0xff0dba97, 0x10746f3c},
    {0xa2b73df1, 0x885f087b}, {0xf872e54c, 0xc7a68855}, {0x1e41e9fc, 0x4c144932},
    {0x86d8e4d2, 0x271d9844}, {0x651bd98b, 0x52148f02}, {0x5bb8f1bc, 0x8e766a0c},
    {0xa90fd27a, 0xa3c6f37a}, {0xb3af077a, 0x93a5f730}, {0x4984d782, 0xd7c0557f},
    {0xca6ef3ac, 0x6cb08e5c}, {0x234e0b26, 0x63ded06a}, {0xdd66cbbb, 0x6b749fb2},
    {0x4597456a, 0x4d56973c}, {0xe9e28eb4, 0x1393e203}, {0x7b3ff57a, 0x9669c9df},
    {0xc9c8b782, 0xcec3662e}, {0x3f70cc6f, 0xe417f38a}, {0x93e106a4, 0x96c515bb},
    {0x62ec6c6d, 0x4b9e0f71}, {0xd813b325, 0xe6fc4e6a}, {0x0df04680, 0xd104b8fc},
    {0x2342001e, 0x8227bb8a}, {0x0a2a8d7e, 0x5b397730}, {0x6d9a4957, 0xb0cd4768},
    {0xe8b6368b, 0xe78eb416}, {0xd2c3ed1a, 0x39c7ff35}, {0x995a5724, 0x61ff0e01},
    {0x9ef68d35, 0xd7a4825c}, {0x0c139b31, 0x8d96551c}, {0xf2271e60, 0x0ab3844b},
    {0x0b0bf8ca, 0x0bf80dd2}, {0x2664fd8b, 0x0167d312}, {0xed64812d, 0x8821abed},
    {0x02ee03b2, 0xf6076544}, {0x8604ae0f, 0x6a45d2b2}, {0x363bd6b3, 0x26f6a60a},
    {0x135c83fd, 0xd8d26619}, {0x5fabe670, 0xa741c1bf}, {0x35ec3279, 0xde87806c},
    {0x00bcf5f6, 0x98d8d9cb}, {0x8ae00689, 0x14338754}, {0x17f27698, 0x49c3cc9c},
    {0x58ca5f00, 0x5bd2011f}, {0xaa7c7ad5, 0x68bce87a}, {0xb5cfca28, 0xdd07448e},
    {0xded288f8, 0x57a3d037}, {0x59f229bc, 0xdde8f5b9}, {0x6d390dec, 0x6956fc3b},
    {0x37170390, 0xa3e3e02c}, {0x6353c1cc, 0x42d98888}, {0xc4584f5c, 0xd73c7bea},
    {0xf48642e9, 0x3771e98f}, {0x531377e2, 0x80ff0093}, {0xdd35bc8d, 0xb42ae3d9},
    {0xb25b29f2, 0x8fe4c34d}, {0x9a5ede41, 0x2178513a}, {0xa563905d, 0xdf99fc11},
    {0x45cddf4e, 0xe0ac139e}, {0xacfa3103, 0x6c23e841}, {0xa51b6135, 0x170076fa},
    {0xdfd94fb2, 0xfe314258}, {0x80f2886b, 0x444dd413}, {0x67969a6a, 0x0d8373a0},
    {0x021ac5ef, 0x6f345e45}, {0xe8310afa, 0x19e3635e}, {0x75451b04, 0x41d17b64},
    {0x8e1450f7, 0x29f268b4}, {0xcbbe4ee1, 0xff0dba97}, {0x3a83de21, 0x1dc0632a},
    {0xe0cdcf86, 0xa2b73df1}, {0x453c1679, 0x1614f396}, {0xdefba41c, 0xf872e54c},
    {0x613eee91, 0x9e2993d3}, {0xddaf5114, 0x1e41e9fc}, {0x1f1dd124, 0x6bebd73c},
    {0xbedc6ba1, 0x86d8e4d2}, {0xeca08ffe, 0x63ae91e6}, {0x3ae30875, 0x651bd98b},
    {0x0cd1526a, 0xf8c9da7a}, {0xb1630f04, 0x5bb8f1bc}, {0xff47317b, 0x945a19c1},
    {0xd6c3a807, 0xa90fd27a}, {0x9a7781e0, 0xee8213b7}, {0x63d097e9, 0xb3af077a},
    {0x1d31175f, 0x93781dc7}, {0x94eb256e, 0x4984d782}, {0x13184649, 0xccc4a1b9},
    {0x4be7fd90, 0xca6ef3ac}, {0x7d5c1d64, 0xa2c2d971}, {0x80ba859a, 0x234e0b26},
    {0x6eeed1c9, 0x1cad4452}, {0x22c3799f, 0xdd66cbbb}, {0xd8ecc578, 0x74922601},
    {0xb3a6da94, 0x4597456a}, {0xcaf933fe, 0xc55f7eab}, {0x50bfaade, 0xe9e28eb4},
    {0x2e7d11a7, 0xa1962329}, {0x7d14748f, 0x7b3ff57a}, {0x32d8041c, 0x2d370749},
    {0x889774e1, 0xc9c8b782}, {0x6cc8a0ff, 0x397d84a1}, {0x5aa1f3cf, 0x3f70cc6f},
};

#endif

/* clang-format on */

#endif
