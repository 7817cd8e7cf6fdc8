/* SPDX-License-Identifier: Apache-2.0
 *
 * The device images that are embedded in the library, one per kernels/<name>.cu.
 */
#ifndef KVPI_KERNELS_IMAGES_H
#define KVPI_KERNELS_IMAGES_H

/* A fatbin knows its own size; the driver needs only the address. */
extern const unsigned char kvpi_image_wait[];
extern const unsigned char kvpi_image_word[];

#endif
