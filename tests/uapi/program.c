/*
 * A program that makes the system calls it is told to: lines on one descriptor, answers on another.
 *
 *   call NUMBER A B C D E F    any system call: "RESULT ERRNO", the result -1 with an errno
 *   poke ADDRESS HEX           store bytes: "0 0"
 *   peek ADDRESS COUNT         load bytes: HEX, "-" for none
 *   load WIDTH ADDRESS         one load of 1, 2, 4 or 8 bytes: its value
 *   store WIDTH ADDRESS VALUE  one store: "0 0"
 *   fork IN OUT                a child that is told what to do through these two paths (FIFOs): its pid, and an errno
 *   many COUNT NUMBER A .. F   the same call COUNT times: how many did not fail, and the last errno
 *
 * Numbers are as strtoull(3) with base 0 reads them. The first line it writes is "ready ADDRESS SIZE": memory of its
 * own that it uses for nothing. Linked statically, so nothing of a C library can stand in a call's way.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#define PAGE 4096
#define MEMORY (1 << 20)
#define LINE (1 << 19)

static char memory[MEMORY + PAGE];
static char line[LINE], answer[LINE];
static int in = 0, out = 1;

static char *own(void)
{
	return (char *)(((uintptr_t)memory + PAGE - 1) & ~(uintptr_t)(PAGE - 1));
}

static void say(const char *text)
{
	size_t left = strlen(text);

	while (left > 0) {
		ssize_t done = write(out, text, left);

		if (done <= 0)
			_exit(3);
		text += done;
		left -= done;
	}
}

static void say_result(long long result, int error)
{
	sprintf(answer, "%lld %d\n", result, result == -1 ? error : 0);
	say(answer);
}

/* The next line, without its end. Whoever writes waits for the answer, so there is never more than one. */
static int hear(void)
{
	size_t have = 0;

	while (have == 0 || line[have - 1] != '\n') {
		ssize_t got = read(in, line + have, LINE - 1 - have);

		if (got <= 0)
			return 0;
		have += got;
	}
	line[have - 1] = 0;
	return 1;
}

static uint64_t number(char **at)
{
	return strtoull(*at, at, 0);
}

static int digit(char c)
{
	return c <= '9' ? c - '0' : c - 'a' + 10;
}

static void poke(char *at)
{
	unsigned char *to = (unsigned char *)(uintptr_t)number(&at);

	for (at++; at[0] && at[1]; at += 2)
		*to++ = digit(at[0]) << 4 | digit(at[1]);
	say_result(0, 0);
}

static void peek(char *at)
{
	unsigned char *from = (unsigned char *)(uintptr_t)number(&at);
	size_t count = number(&at), i;

	for (i = 0; i < count; i++)
		sprintf(answer + 2 * i, "%02x", from[i]);
	strcpy(answer + 2 * count, count ? "\n" : "-\n");
	say(answer);
}

static void load(char *at)
{
	int width = number(&at);
	uintptr_t from = number(&at);
	uint64_t value = width == 1   ? *(volatile uint8_t *)from
			 : width == 2 ? *(volatile uint16_t *)from
			 : width == 4 ? *(volatile uint32_t *)from
				      : *(volatile uint64_t *)from;

	sprintf(answer, "%llu\n", (unsigned long long)value);
	say(answer);
}

static void store(char *at)
{
	int width = number(&at);
	uintptr_t to = number(&at);
	uint64_t value = number(&at);

	if (width == 1)
		*(volatile uint8_t *)to = value;
	else if (width == 2)
		*(volatile uint16_t *)to = value;
	else if (width == 4)
		*(volatile uint32_t *)to = value;
	else
		*(volatile uint64_t *)to = value;
	say_result(0, 0);
}

static long make_call(char *at)
{
	long a[7];
	int i;

	for (i = 0; i < 7; i++)
		a[i] = (long)number(&at);
	return syscall(a[0], a[1], a[2], a[3], a[4], a[5], a[6]);
}

static void call(char *at)
{
	long result = make_call(at);

	say_result(result, errno);
}

static void many(char *at)
{
	uint64_t count = number(&at), well = 0, i;
	int last = 0;

	for (i = 0; i < count; i++) {
		if (make_call(at) == -1)
			last = errno;
		else
			well++;
	}
	sprintf(answer, "%llu %d\n", (unsigned long long)well, last);
	say(answer);
}

static void greet(void)
{
	sprintf(answer, "ready %llu %d\n", (unsigned long long)(uintptr_t)own(), MEMORY);
	say(answer);
}

static void divide(char *at)
{
	char *from = strtok(at, " "), *to = strtok(NULL, " ");
	long pid = fork();

	if (pid != 0) {
		say_result(pid, errno);
		return;
	}
	in = open(from, O_RDONLY);
	out = open(to, O_WRONLY);
	greet();
}

int main(void)
{
	static const struct {
		const char *name;
		void (*act)(char *);
	} commands[] = {
		{"call ", call}, {"poke ", poke}, {"peek ", peek}, {"load ", load},
		{"store ", store}, {"fork ", divide}, {"many ", many},
	};
	size_t i;

	greet();
	while (hear()) {
		for (i = 0; i < sizeof(commands) / sizeof(commands[0]); i++)
			if (strncmp(line, commands[i].name, strlen(commands[i].name)) == 0)
				break;
		if (i == sizeof(commands) / sizeof(commands[0]))
			_exit(2);
		commands[i].act(line + strlen(commands[i].name));
	}
	return 0;
}
