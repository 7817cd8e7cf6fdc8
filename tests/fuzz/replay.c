/* SPDX-License-Identifier: Apache-2.0
 *
 * The main of a fuzz target in a build without libFuzzer: make check feeds it the files in
 * tests/fuzz/corpus/<target>/, among them every input that once was a finding.  By hand:
 *
 *	tests/fuzz/fuzz_scan FILE...
 */
#include "fuzz/fuzz.h"

#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static _Noreturn void die(const char *what)
{
	fprintf(stderr, "%s: %s\n", what, strerror(errno));
	exit(1);
}

static void replay_file(const char *path)
{
	FILE *file = fopen(path, "rb");
	uint8_t *data;
	long size;

	if (file == NULL || fseek(file, 0, SEEK_END) != 0 || (size = ftell(file)) < 0 ||
	    fseek(file, 0, SEEK_SET) != 0)
		die(path);
	/* Exactly as large as the input, so that a sanitizer sees each byte read too far. */
	data = malloc((size_t)size);
	if (size > 0 && (data == NULL || fread(data, 1, (size_t)size, file) != (size_t)size))
		die(path);
	fclose(file);
	LLVMFuzzerTestOneInput(data, (size_t)size);
	free(data);
}

static int replay_folder(const char *path)
{
	DIR *folder = opendir(path);
	struct dirent *entry;
	int count = 0;

	if (folder == NULL)
		die(path);
	while ((entry = readdir(folder)) != NULL) {
		char *file;

		if (entry->d_name[0] == '.')
			continue;
		if (asprintf(&file, "%s/%s", path, entry->d_name) < 0)
			die(path);
		replay_file(file);
		free(file);
		count++;
	}
	closedir(folder);
	return count;
}

int main(int argc, char **argv)
{
	const char *target = strstr(program_invocation_short_name, "fuzz_");
	const char *srcdir = getenv("KVP_SRCDIR");
	char *corpus;
	int count;

	for (int i = 1; i < argc; i++)
		replay_file(argv[i]);
	if (argc > 1)
		return 0;

	if (target == NULL || srcdir == NULL) {
		fprintf(stderr, "usage: %s FILE...\n", argv[0]);
		return 2;
	}
	if (asprintf(&corpus, "%s/tests/fuzz/corpus/%s", srcdir, target + strlen("fuzz_")) < 0)
		die(target);
	count = replay_folder(corpus);
	printf("%d inputs of %s\n", count, corpus);
	free(corpus);
	/* A replay of nothing has tested nothing. */
	return count > 0 ? 0 : 1;
}
