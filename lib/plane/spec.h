/* SPDX-License-Identifier: Apache-2.0
 *
 * What the option `planes` says: which data planes an endpoint may use, best first, each bare or wrapped.
 *
 *	list:  spec { "," spec }                                    "" and NULL: every plane of the registry
 *	spec:  NAME | WRAPPER "(" spec { ";" KEY "=" VALUE } ")"    tcp   fault(tcp; seed=7; delay=5ms)   trace(fault(shm))
 *
 * A wrapper is a local matter: it shows the name, the rank and the judgement of the plane within, and what goes over
 * the wire is that plane's.  So either end may wrap alone, and the ends agree as if nobody had.
 */
#ifndef KVPI_PLANE_SPEC_H
#define KVPI_PLANE_SPEC_H

#include "plane/plane.h"
#include "wire/view.h"

#define KVPI_PLANE_SPECS_MAX 8 /* planes in a list */
#define KVPI_PLANE_WRAPS_MAX 4 /* wrappers around one of them */

typedef struct kvpi_plane_wrapper kvpi_plane_wrapper;

typedef struct kvpi_plane_spec {
	const kvpi_plane_ops *base; /* the plane itself */
	unsigned wraps;
	struct {
		const kvpi_plane_wrapper *wrapper;
		kvpi_view settings; /* "seed=7; delay=5ms": borrowed from the list */
	} wrap[KVPI_PLANE_WRAPS_MAX]; /* outermost first */
} kvpi_plane_spec;

struct kvpi_plane_wrapper {
	const char *name;
	/* KVP_E_INVALID with a sentence for a key or value that makes no sense. */
	kvp_status (*check)(kvpi_view settings);
	/* Opens the wrapper spec->wrap[level] around what kvpi_plane_open_level makes of the level after it. */
	kvp_status (*open)(const kvpi_plane_spec *spec, unsigned level, const kvpi_plane_params *params,
	                   const kvpi_plane_ops **ops, kvpi_plane **plane, kvpi_plane_caps *caps);
};

/* KVP_E_INVALID: nonsense, an unknown name, key or value, a plane named twice; the sentence says which there are.
 * The specs borrow the list. */
kvp_status kvpi_plane_specs_parse(const char *list, kvpi_plane_spec specs[KVPI_PLANE_SPECS_MAX], size_t *count);

/* Opens a plane with its wrappers: from here on it is driven through *ops, a table that is valid until its close.
 * Codes as kvpi_plane_ops.open.  The spec is not needed afterwards. */
kvp_status kvpi_plane_open(const kvpi_plane_spec *spec, const kvpi_plane_params *params, const kvpi_plane_ops **ops,
                           kvpi_plane **plane, kvpi_plane_caps *caps);
kvp_status kvpi_plane_open_level(const kvpi_plane_spec *spec, unsigned level, const kvpi_plane_params *params,
                                 const kvpi_plane_ops **ops, kvpi_plane **plane, kvpi_plane_caps *caps);

/* A wrapper's settings: one row for each key. */
typedef enum kvpi_setting_type {
	KVPI_SETTING_NUMBER,  /* uint64_t */
	KVPI_SETTING_MILLE,   /* uint64_t, 0 to 1000: so many times in a thousand */
	KVPI_SETTING_TIME     /* int64_t nanoseconds; text "50us", "5ms", "2s", at most an hour */
} kvpi_setting_type;

typedef struct kvpi_setting {
	const char *key;
	kvpi_setting_type type;
	size_t offset; /* in the struct of settings */
} kvpi_setting;

/* Reads "key=value; key=value" into a struct whose defaults the caller has put there.  KVP_E_INVALID. */
kvp_status kvpi_plane_settings_read(kvpi_view settings, const char *wrapper, const kvpi_setting *rows, size_t count,
                                    void *out);

#endif
