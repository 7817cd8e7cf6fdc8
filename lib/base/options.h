/* SPDX-License-Identifier: Apache-2.0
 *
 * Option tables.  A public option struct starts with `size_t size`; one table row per field names it,
 * says where it lies, what is allowed, its default and its help.  From the table come the defaults,
 * setting by name from text (configuration files, Python), the check at open, and the manual's table.
 */
#ifndef KVPI_BASE_OPTIONS_H
#define KVPI_BASE_OPTIONS_H

#include <kvpipe/status.h>
#include <stddef.h>
#include <stdint.h>

typedef enum kvpi_option_type {
	KVPI_OPT_INT,    /* int */
	KVPI_OPT_BYTES,  /* uint64_t; text may be "1e9", "64KiB", "2MiB", "1GiB" */
	KVPI_OPT_BOOL,   /* int 0 or 1; text 0 1 true false yes no on off */
	KVPI_OPT_STRING, /* const char *, borrowed */
	KVPI_OPT_OTHER   /* anything else (handles, callbacks): zeroed by default, not settable by name */
} kvpi_option_type;

typedef struct kvpi_option {
	const char *name;
	kvpi_option_type type;
	size_t offset, width; /* of the field in the struct */
	double min, max;      /* INT, BYTES */
	double def;           /* INT, BYTES, BOOL */
	const char *def_text; /* STRING; may be NULL */
	const char *help;     /* one line, with the unit */
} kvpi_option;

typedef struct kvpi_option_table {
	const char *name; /* the struct's name, for sentences */
	size_t struct_size;
	size_t count;
	const kvpi_option *rows;
} kvpi_option_table;

/* A row's place and width, for designated initialisers. */
#define KVPI_OPT_FIELD(type, field) offsetof(type, field), sizeof(((type *)0)->field)

/* Zeroes the struct, sets size and defaults; only the `size` bytes that the caller's header knows. */
void kvpi_options_init(const kvpi_option_table *table, void *options, size_t size);

/* Sets one field from text.  KVP_E_NOT_FOUND with the list of names, KVP_E_INVALID with the range.
 * A string is borrowed: `value` must outlive the struct's use. */
kvp_status kvpi_options_set(const kvpi_option_table *table, void *options, const char *name,
                            const char *value);

/* Copies a caller's struct of an older or equal `size` over the defaults into `out` (struct_size
 * bytes) and checks every range.  options NULL gives the defaults.  A size of 0 or one larger than
 * the library's (a newer header) is KVP_E_INVALID with a sentence. */
kvp_status kvpi_options_read(const kvpi_option_table *table, const void *options, void *out,
                             const char *call);

#endif
