/* SPDX-License-Identifier: Apache-2.0 */
#include "llama/ops.h"

#include <math.h>
#include <string.h>

/*
 * One token through one panel: each output is summed over the inputs in ascending order. Without
 * `restrict` the compiler must expect a store to `sums` to change its inputs, and cannot compute
 * the sums side by side.
 */
static void panel_row(
    const float *restrict panel, const float *restrict x, size_t n_in, float *restrict sums)
{
	for (size_t j = 0; j < LLAMA_PANEL_OUTPUTS; j++)
		sums[j] = 0.0f;
	for (size_t i = 0; i < n_in; i++, panel += LLAMA_PANEL_OUTPUTS)
		for (size_t j = 0; j < LLAMA_PANEL_OUTPUTS; j++)
			sums[j] += x[i] * panel[j];
}

/* All tokens pass a panel before the next one is touched, so that a panel is fetched from memory
 * once. */
void llama_matmul(const llama_matrix *matrix, const float *x, size_t n_tokens, float *y)
{
	float sums[LLAMA_PANEL_OUTPUTS];
	for (size_t first = 0; first < matrix->n_out; first += LLAMA_PANEL_OUTPUTS) {
		const float *panel = matrix->panels + first * matrix->n_in;
		size_t n = matrix->n_out - first < LLAMA_PANEL_OUTPUTS ? matrix->n_out - first
		                                                       : LLAMA_PANEL_OUTPUTS;
		for (size_t t = 0; t < n_tokens; t++) {
			panel_row(panel, x + t * matrix->n_in, matrix->n_in, sums);
			memcpy(y + t * matrix->n_out + first, sums, n * sizeof *sums);
		}
	}
}

void llama_rms_norm(
    const float *weight, float eps, const float *x, size_t n_tokens, size_t width, float *y)
{
	for (size_t t = 0; t < n_tokens; t++, x += width, y += width) {
		float squares = 0.0f;
		for (size_t i = 0; i < width; i++)
			squares += x[i] * x[i];
		float scale = 1.0f / sqrtf(squares / (float)width + eps);
		for (size_t i = 0; i < width; i++)
			y[i] = weight[i] * (x[i] * scale);
	}
}

void llama_rope(const float *cos_sin, size_t head_dim, float *x)
{
	size_t half = head_dim / 2;
	for (size_t i = 0; i < half; i++) {
		float a = x[i];
		float b = x[i + half];
		float c = cos_sin[i];
		float s = cos_sin[i + half];
		x[i] = a * c - b * s;
		x[i + half] = b * c + a * s;
	}
}

float llama_dot(const float *a, const float *b, size_t n)
{
	float sums[LLAMA_DOT_LANES] = {0.0f};
	for (size_t i = 0; i < n; i += LLAMA_DOT_LANES)
		for (size_t j = 0; j < LLAMA_DOT_LANES; j++)
			sums[j] += a[i + j] * b[i + j];
	float sum = 0.0f;
	for (size_t j = 0; j < LLAMA_DOT_LANES; j++)
		sum += sums[j];
	return sum;
}

void llama_add_scaled(float weight, const float *restrict x, size_t n, float *restrict sum)
{
	for (size_t i = 0; i < n; i += LLAMA_DOT_LANES)
		for (size_t j = 0; j < LLAMA_DOT_LANES; j++)
			sum[i + j] += weight * x[i + j];
}

void llama_softmax(float *x, size_t n)
{
	float max = x[0];
	for (size_t i = 1; i < n; i++)
		if (x[i] > max)
			max = x[i];
	float sum = 0.0f;
	for (size_t i = 0; i < n; i++) {
		x[i] = expf(
		    x[i] - max); /* the largest becomes 1: no overflow, and the sum is never 0 */
		sum += x[i];
	}
	for (size_t i = 0; i < n; i++)
		x[i] /= sum;
}

void llama_swiglu(const float *up, size_t n, float *gate)
{
	for (size_t i = 0; i < n; i++)
		gate[i] = gate[i] / (1.0f + expf(-gate[i])) * up[i];
}

void llama_add(const float *x, size_t n, float *sum)
{
	for (size_t i = 0; i < n; i++)
		sum[i] += x[i];
}
