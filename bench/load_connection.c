/*
 * nghttp2 does the protocol; this file moves bytes.
 *
 *   socket --read--> nghttp2_session_mem_recv --> on_header, on_data, on_close --> call
 *   call.body --> read_body --> nghttp2_session_mem_send --> out[0..size) --one write for many
 *   frames--> socket
 *
 * Windows are large, so that flow control is the server's and not ours. Frames are as large as the
 * server takes.
 */
#include "load_connection.h"

#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <nghttp2/nghttp2.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define OUT_SIZE (256u << 10)
#define IN_SIZE (256u << 10)
#define STREAM_WINDOW (16 << 20)
#define CONNECTION_WINDOW (64 << 20)

struct connection {
    int fd;
    nghttp2_session *session;
    char authority[128];
    uint8_t *out, *in;
    size_t out_size, out_sent;
    const uint8_t *
        /*
         * what nghttp2 gave and did not fit into `out` any more; its memory, valid until the next
         * mem_send
         */
        frame;
    size_t frame_size;
    bool failed;
};

bool call_ok(const struct call *call) { return call->http_status == 200 && call->grpc_status == 0; }

/* ---- nghttp2 asks and tells ------------------------------------------------------------------ */

static ssize_t read_body(nghttp2_session *session, int32_t stream, uint8_t *buffer, size_t room,
                         uint32_t *flags, nghttp2_data_source *source, void *user) {
    (void)session;
    (void)stream;
    (void)user;
    struct call *call = source->ptr;
    if (call->body_sent == call->body_size) {
        if (call->produce == NULL || !call->produce(call)) {
            *flags |= NGHTTP2_DATA_FLAG_EOF;
            return 0;
        }
        call->body_sent = 0;
    }
    size_t left = call->body_size - call->body_sent;
    size_t n = left < room ? left : room;
    memcpy(buffer, call->body + call->body_sent, n);
    call->body_sent += n;
    if (call->body_sent == call->body_size && call->produce == NULL) {
        *flags |= NGHTTP2_DATA_FLAG_EOF;
    }
    return (ssize_t)n;
}

static ssize_t frame_room(nghttp2_session *session, uint8_t type, int32_t stream,
                          int32_t connection_window, int32_t stream_window, uint32_t frame_max,
                          void *user) {
    (void)session;
    (void)type;
    (void)stream;
    (void)connection_window;
    (void)stream_window;
    (void)user;
    return frame_max < OUT_SIZE / 2 ? (ssize_t)frame_max : (ssize_t)(OUT_SIZE / 2);
}

static int on_header(nghttp2_session *session, const nghttp2_frame *frame, const uint8_t *name,
                     size_t name_size, const uint8_t *value, size_t value_size, uint8_t flags,
                     void *user) {
    (void)flags;
    (void)user;
    struct call *call = nghttp2_session_get_stream_user_data(session, frame->hd.stream_id);
    if (call == NULL) {
        return 0;
    }
    if (name_size == 7 && memcmp(name, ":status", 7) == 0) {
        call->http_status =
            atoi((const char *)value); /* nghttp2 ends names and values with a zero byte */
    } else if (name_size == 11 && memcmp(name, "grpc-status", 11) == 0) {
        call->grpc_status = atoi((const char *)value);
    } else if (name_size == 12 && memcmp(name, "grpc-message", 12) == 0) {
        snprintf(call->message, sizeof call->message, "%.*s", (int)value_size, (const char *)value);
    }
    return 0;
}

static int on_data(nghttp2_session *session, uint8_t flags, int32_t stream, const uint8_t *data,
                   size_t size, void *user) {
    (void)flags;
    (void)user;
    struct call *call = nghttp2_session_get_stream_user_data(session, stream);
    if (call != NULL) {
        call->receive(call, data, size);
    }
    return 0;
}

static int on_close(nghttp2_session *session, int32_t stream, uint32_t code, void *user) {
    (void)user;
    struct call *call = nghttp2_session_get_stream_user_data(session, stream);
    if (call == NULL) {
        return 0;
    }
    if (code != NGHTTP2_NO_ERROR && call->grpc_status <= 0) {
        call->grpc_status = -1;
        snprintf(call->message, sizeof call->message, "stream reset: %s",
                 nghttp2_http2_strerror(code));
    }
    nghttp2_session_set_stream_user_data(session, stream, NULL);
    call->done(call);
    return 0;
}

/* ---- opening --------------------------------------------------------------------------------- */

static int connect_to(const char *address) {
    char host[96];
    const char *colon = strrchr(address, ':');
    if (colon == NULL || (size_t)(colon - address) >= sizeof host) {
        fprintf(stderr, "load: %s is not HOST:PORT\n", address);
        return -1;
    }
    snprintf(host, sizeof host, "%.*s", (int)(colon - address), address);
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM}, *found;
    int rc = getaddrinfo(host, colon + 1, &hints, &found);
    if (rc != 0) {
        fprintf(stderr, "load: %s: %s\n", address, gai_strerror(rc));
        return -1;
    }
    int fd = socket(found->ai_family, SOCK_STREAM | SOCK_CLOEXEC, 0), on = 1;
    if (fd < 0 || connect(fd, found->ai_addr, found->ai_addrlen) != 0 ||
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on) != 0 ||
        fcntl(fd, F_SETFL, O_NONBLOCK) != 0) {
        fprintf(stderr, "load: %s: %s\n", address, strerror(errno));
        if (fd >= 0) {
            close(fd);
        }
        fd = -1;
    }
    freeaddrinfo(found);
    return fd;
}

static bool start_session(struct connection *connection) {
    nghttp2_session_callbacks *callbacks;
    if (nghttp2_session_callbacks_new(&callbacks) != 0) {
        return false;
    }
    nghttp2_session_callbacks_set_on_header_callback(callbacks, on_header);
    nghttp2_session_callbacks_set_on_data_chunk_recv_callback(callbacks, on_data);
    nghttp2_session_callbacks_set_on_stream_close_callback(callbacks, on_close);
    nghttp2_session_callbacks_set_data_source_read_length_callback(callbacks, frame_room);
    int rc = nghttp2_session_client_new(&connection->session, callbacks, connection);
    nghttp2_session_callbacks_del(callbacks);
    const nghttp2_settings_entry settings[] = {
        {NGHTTP2_SETTINGS_ENABLE_PUSH, 0},
        {NGHTTP2_SETTINGS_INITIAL_WINDOW_SIZE, STREAM_WINDOW},
    };
    return rc == 0 &&
           nghttp2_submit_settings(connection->session, NGHTTP2_FLAG_NONE, settings, 2) == 0 &&
           nghttp2_session_set_local_window_size(connection->session, NGHTTP2_FLAG_NONE, 0,
                                                 CONNECTION_WINDOW) == 0;
}

struct connection *connection_open(const char *address) {
    struct connection *connection = calloc(1, sizeof *connection);
    if (connection == NULL) {
        return NULL;
    }
    snprintf(connection->authority, sizeof connection->authority, "%s", address);
    connection->out = malloc(OUT_SIZE);
    connection->in = malloc(IN_SIZE);
    connection->fd = connect_to(address);
    if (connection->fd < 0 || connection->out == NULL || connection->in == NULL ||
        !start_session(connection)) {
        connection_close(connection);
        return NULL;
    }
    return connection;
}

void connection_close(struct connection *connection) {
    nghttp2_session_del(connection->session);
    if (connection->fd >= 0) {
        close(connection->fd);
    }
    free(connection->out);
    free(connection->in);
    free(connection);
}

int connection_fd(const struct connection *connection) { return connection->fd; }

bool connection_wants_write(const struct connection *connection) {
    return connection->out_sent < connection->out_size || connection->frame_size > 0 ||
           nghttp2_session_want_write(connection->session) != 0;
}

/* ---- calls and bytes ------------------------------------------------------------------------- */

#define HEADER(name, value, size)                                                                  \
    {(uint8_t *)(uintptr_t)(name), (uint8_t *)(uintptr_t)(value), sizeof(name) - 1, size,          \
     NGHTTP2_NV_FLAG_NO_COPY_NAME}

bool connection_call(struct connection *connection, struct call *call) {
    const nghttp2_nv headers[] = {
        HEADER(":method", "POST", 4),
        HEADER(":scheme", "http", 4),
        HEADER(":path", call->path, strlen(call->path)),
        HEADER(":authority", connection->authority, strlen(connection->authority)),
        HEADER("content-type", "application/grpc", 16),
        HEADER("te", "trailers", 8),
    };
    nghttp2_data_provider provider = {.source = {.ptr = call}, .read_callback = read_body};
    call->http_status = call->grpc_status = -1;
    call->message[0] = '\0';
    call->body_sent = 0;
    call->stream = nghttp2_submit_request(connection->session, NULL, headers,
                                          sizeof headers / sizeof headers[0], &provider, call);
    if (call->stream < 0) {
        fprintf(stderr, "load: %s: %s\n", call->path, nghttp2_strerror(call->stream));
        return false;
    }
    return true;
}

static bool fail(struct connection *connection, const char *what, const char *why) {
    if (!connection->failed) {
        fprintf(stderr, "load: %s: %s: %s\n", connection->authority, what, why);
    }
    connection->failed = true;
    return false;
}

static bool read_all(struct connection *connection) {
    for (;;) {
        ssize_t n = recv(connection->fd, connection->in, IN_SIZE, 0);
        if (n < 0 && (errno == EAGAIN || errno == EINTR)) {
            return true;
        }
        if (n <= 0) {
            return fail(connection, "read",
                        n == 0 ? "the server closed the connection" : strerror(errno));
        }
        ssize_t taken = nghttp2_session_mem_recv(connection->session, connection->in, (size_t)n);
        if (taken < 0) {
            return fail(connection, "protocol", nghttp2_strerror((int)taken));
        }
        if ((size_t)n < IN_SIZE) {
            return true;
        }
    }
}

/* Fills `out` with frames, as many as fit whole. */
static bool gather(struct connection *connection) {
    for (;;) {
        if (connection->frame_size == 0) {
            ssize_t n = nghttp2_session_mem_send(connection->session, &connection->frame);
            if (n < 0) {
                return fail(connection, "protocol", nghttp2_strerror((int)n));
            }
            connection->frame_size = (size_t)n;
        }
        if (connection->frame_size == 0 ||
            connection->out_size + connection->frame_size > OUT_SIZE) {
            return true;
        }
        memcpy(connection->out + connection->out_size, connection->frame, connection->frame_size);
        connection->out_size += connection->frame_size;
        connection->frame_size = 0;
    }
}

static bool write_all(struct connection *connection) {
    for (;;) {
        if (connection->out_sent == connection->out_size) {
            connection->out_sent = connection->out_size = 0;
            if (!gather(connection)) {
                return false;
            }
            if (connection->out_size == 0) {
                return true;
            }
        }
        ssize_t n = send(connection->fd, connection->out + connection->out_sent,
                         connection->out_size - connection->out_sent, MSG_NOSIGNAL);
        if (n < 0 && (errno == EAGAIN || errno == EINTR)) {
            return true;
        }
        if (n < 0) {
            return fail(connection, "write", strerror(errno));
        }
        connection->out_sent += (size_t)n;
    }
}

bool connection_io(struct connection *connection) {
    return write_all(connection) && read_all(connection) && write_all(connection);
}
