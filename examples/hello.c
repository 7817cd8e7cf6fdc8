/* SPDX-License-Identifier: Apache-2.0
 *
 * The smallest program: two processes, one tensor.
 *
 *	hello             rank 0 hosts the store on the default port
 *	hello STORE_URL   both meet at a running kvpipe-store
 */
#include <kvpipe/kvpipe.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

static void must(kvp_status status)
{
	if (status == KVP_OK)
		return;
	fprintf(stderr, "hello: %s\n", kvp_last_error());
	exit(1);
}

int main(int argc, char **argv)
{
	float numbers[2][3] = {{1, 2, 3}, {4, 5, 6}};
	kvp_pipe_options options;
	kvp_pipe *pipe;
	kvp_tensor tensor;
	char text[64];
	int child = 0;
	pid_t pid = fork(); /* two processes, before the first kvp_ call */

	if (pid < 0) {
		perror("hello: fork");
		return 1;
	}
	kvp_pipe_options_init(&options);
	options.kv_rank = pid == 0; /* the parent is rank 0, the child rank 1 */
	options.store_url = argc > 1 ? argv[1] : NULL;
	must(kvp_pipe_open(NULL, &options, 10000, &pipe));
	if (options.kv_rank == 0) {
		must(kvp_tensor_init(&tensor, numbers, KVP_DTYPE_FP32, 2, (int64_t[]){2, 3}));
		must(kvp_pipe_send(pipe, &tensor, NULL, NULL));
		must(kvp_pipe_flush(pipe, 10000)); /* when this returns, it has arrived */
	} else {
		float received[6];

		kvp_tensor_init_buffer(&tensor, received, sizeof(received));
		must(kvp_pipe_recv(pipe, &tensor, 10000));
		kvp_tensor_describe(&tensor, text, sizeof(text));
		printf("%s arrived; its last number is %g\n", text, received[5]);
	}
	kvp_pipe_free(pipe);
	if (pid > 0 && (waitpid(pid, &child, 0) != pid || child != 0))
		return 1;
	return 0;
}
