/*
 * One HTTP/2 connection and the gRPC calls on it, driven by readiness: nothing here blocks but
 * connecting.
 */
#ifndef LOAD_CONNECTION_H
#define LOAD_CONNECTION_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct connection;

/* One call. The caller owns the memory, which must stay until `done` was called. */
struct call {
    const char *path; /* "/package.Service/Method" */
    /*
     * Bytes to send, gRPC prefix included. When all are sent, `produce` (may be NULL) puts more
     * here, or returns false: the end.
     */
    const uint8_t *body;
    size_t body_size, body_sent;
    bool (*produce)(struct call *call);
    void (*receive)(struct call *call, const uint8_t *data, size_t size);
    void (*done)(struct call *call); /* the stream is closed; may start another call */
    void *owner;
    /* what came back; -1: nothing did */
    int http_status, grpc_status;
    char message[256]; /* grpc-message, or why there is none */
    int32_t stream;
};

/* address: "HOST:PORT". NULL, having said why. */
struct connection *connection_open(const char *address);
void connection_close(struct connection *connection);
int connection_fd(const struct connection *connection);
bool connection_wants_write(const struct connection *connection);
/* Starts a call; its bytes leave with the next connection_io. False, having said why. */
bool connection_call(struct connection *connection, struct call *call);
/*
 * Reads and writes all that goes without waiting. False, having said why: the connection is of no
 * more use.
 */
bool connection_io(struct connection *connection);
bool call_ok(const struct call *call);

#endif
