/* SPDX-License-Identifier: Apache-2.0
 *
 * Pulls the fatbins that nvcc made into read-only data.  The paths are relative to the build
 * folder, where the one make runs.
 */
#include "images.h"

#define IMAGE(name)                                                                                \
	__asm__(".section .rodata, \"a\"\n"                                                        \
	        ".balign 64\n"                                                                     \
	        ".globl kvpi_image_" #name "\n"                                                    \
	        ".hidden kvpi_image_" #name "\n"                                                   \
	        ".type kvpi_image_" #name ", @object\n"                                            \
	        "kvpi_image_" #name ":\n"                                                          \
	        ".incbin \"kernels/" #name ".fatbin\"\n"                                           \
	        ".size kvpi_image_" #name ", . - kvpi_image_" #name "\n"                           \
	        ".previous\n")

IMAGE(wait);
IMAGE(word);
