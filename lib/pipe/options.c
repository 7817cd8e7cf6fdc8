/* SPDX-License-Identifier: Apache-2.0 */
#include "pipe/pipe_handle.h"

#define PLACE(type, field) .name = #field, .offset = offsetof(type, field), .width = sizeof(((type *)0)->field)
#define FIELD(field) PLACE(kvp_pipe_options, field)
#define SEND_FIELD(field) PLACE(kvp_send_options, field)

static const kvpi_option rows[] = {
    {FIELD(store), .type = KVPI_OPT_OTHER, .help = "an open store handle to meet at"},
    {FIELD(store_url), .type = KVPI_OPT_STRING, .help = "the store to meet at, tcp://host:port"},
    {FIELD(kv_ip), .type = KVPI_OPT_STRING, .def_text = "127.0.0.1", .help = "where rank 0 hosts the store"},
    {FIELD(kv_port), .type = KVPI_OPT_INT, .min = 1, .max = 65535, .def = 14579, .help = "its port"},
    {FIELD(kv_port_offset), .type = KVPI_OPT_INT, .min = 0, .max = 65535, .def = 0, .help = "added to kv_port"},
    {FIELD(name), .type = KVPI_OPT_STRING, .def_text = "kv", .help = "tells pipes on one store apart"},
    {FIELD(kv_rank), .type = KVPI_OPT_INT, .min = 0, .max = 1023, .def = 0, .help = "this rank in the ring"},
    {FIELD(kv_parallel_size), .type = KVPI_OPT_INT, .min = 1, .max = 1024, .def = 2, .help = "ranks in the ring"},
    {FIELD(endpoint), .type = KVPI_OPT_STRING, .help = "this end's own name, for peers by name"},
    {FIELD(send_to), .type = KVPI_OPT_STRING, .help = "name of the peer to send to"},
    {FIELD(recv_from), .type = KVPI_OPT_STRING, .help = "name of the peer to receive from"},
    {FIELD(kv_buffer_size), .type = KVPI_OPT_BYTES, .min = 1, .max = 1e18, .def = 1e9,
     .help = "bytes in flight to the peer"},
    {FIELD(kv_buffer_device), .type = KVPI_OPT_STRING, .def_text = "auto", .help = "auto, cpu or cuda"},
    {FIELD(store_timeout_ms), .type = KVPI_OPT_INT, .min = 1, .max = INT32_MAX, .def = 300000,
     .help = "default time-out of calls and transfers, milliseconds"},
    {FIELD(heartbeat_ms), .type = KVPI_OPT_INT, .min = 10, .max = 60000, .def = 1000,
     .help = "sign-of-life interval, milliseconds; three missed and the peer is lost"},
    {FIELD(bind_host), .type = KVPI_OPT_STRING, .def_text = "127.0.0.1", .help = "where data and control listen"},
    {FIELD(planes), .type = KVPI_OPT_STRING, .def_text = "", .help = "allowed data planes, comma-separated, best first"},
    {FIELD(advertise_host), .type = KVPI_OPT_STRING, .help = "what peers are told to connect to"},
    {FIELD(port_range), .type = KVPI_OPT_STRING, .def_text = "", .help = "ports to listen on, first-last"},
    {FIELD(tcp_streams), .type = KVPI_OPT_INT, .min = 1, .max = 16, .def = 1, .help = "parallel tcp connections"},
    {FIELD(checksum), .type = KVPI_OPT_BOOL, .def = 0, .help = "tcp carries a digest of every payload"},
    {FIELD(poll_us), .type = KVPI_OPT_INT, .min = 0, .max = 1000000, .def = 0,
     .help = "look for news this long before sleeping, microseconds"},
    {FIELD(worker_cpu), .type = KVPI_OPT_INT, .min = -1, .max = 4095, .def = -1, .help = "CPU of the pipe's thread"},
};

const kvpi_option_table kvpi_pipe_option_table = {
    .name = "kvp_pipe_options",
    .struct_size = sizeof(kvp_pipe_options),
    .count = sizeof(rows) / sizeof(rows[0]),
    .rows = rows,
};

static const kvpi_option send_rows[] = {
    {SEND_FIELD(timeout_ms), .type = KVPI_OPT_INT, .min = -1, .max = INT32_MAX, .def = -1,
     .help = "how long the call may block for room, milliseconds"},
    {SEND_FIELD(deadline_ms), .type = KVPI_OPT_INT, .min = -1, .max = INT32_MAX, .def = -1,
     .help = "how long the transfer may take, milliseconds"},
    {SEND_FIELD(done), .type = KVPI_OPT_OTHER, .help = "called when the request has ended"},
    {SEND_FIELD(user), .type = KVPI_OPT_OTHER, .help = "handed to done"},
};

const kvpi_option_table kvpi_send_option_table = {
    .name = "kvp_send_options",
    .struct_size = sizeof(kvp_send_options),
    .count = sizeof(send_rows) / sizeof(send_rows[0]),
    .rows = send_rows,
};

void kvp_pipe_options_init_sized(kvp_pipe_options *options, size_t size)
{
	kvpi_options_init(&kvpi_pipe_option_table, options, size);
}

kvp_status kvp_pipe_options_set(kvp_pipe_options *options, const char *name, const char *value)
{
	return kvpi_options_set(&kvpi_pipe_option_table, options, name, value);
}

void kvp_send_options_init_sized(kvp_send_options *options, size_t size)
{
	kvpi_options_init(&kvpi_send_option_table, options, size);
}
