/*
 * Carries files out of the guest through I/O port 0xe9, which QEMU and Bochs write to the host.
 *
 *   send FILE NAME [FILE NAME]...   then, as the last word, END: and switch the machine off
 *
 * One frame a file: "PXVM1 NAME BYTES\n", the bytes, their CRC-32 as eight hex digits, "\n".
 */
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/io.h>
#include <sys/reboot.h>
#include <unistd.h>

#define PORT 0xe9
#define BOCHS_SHUTDOWN 0x8900 /* Bochs ends when the word arrives here a letter at a time */

static void out(const void *bytes, size_t size)
{
	__asm__ volatile("rep outsb" : "+S"(bytes), "+c"(size) : "d"(PORT) : "memory");
}

static uint32_t crc32(uint32_t crc, const unsigned char *bytes, size_t size)
{
	static uint32_t table[256];

	if (!table[1])
		for (uint32_t byte = 0; byte < 256; byte++) {
			uint32_t value = byte;

			for (int bit = 0; bit < 8; bit++)
				value = value >> 1 ^ (value & 1 ? 0xedb88320 : 0);
			table[byte] = value;
		}
	crc = ~crc;
	while (size--)
		crc = crc >> 8 ^ table[(crc ^ *bytes++) & 0xff];
	return ~crc;
}

static int send(const char *path, const char *name)
{
	static unsigned char block[1 << 16];
	char text[300];
	uint32_t crc = 0;
	ssize_t got;
	off_t size;
	int fd = open(path, O_RDONLY);

	if (fd < 0)
		return -1;
	size = lseek(fd, 0, SEEK_END);
	lseek(fd, 0, SEEK_SET);
	out(text, (size_t)snprintf(text, sizeof(text), "PXVM1 %s %lld\n", name, (long long)size));
	while (size > 0 && (got = read(fd, block, sizeof(block))) > 0) {
		if (got > size)
			got = (ssize_t)size; /* a log may have grown meanwhile */
		out(block, (size_t)got);
		crc = crc32(crc, block, (size_t)got);
		size -= got;
	}
	close(fd);
	out(text, (size_t)snprintf(text, sizeof(text), "%08x\n", crc));
	return size ? -1 : 0;
}

int main(int count, char **words)
{
	int failed = 0;

	if (iopl(3)) {
		perror("iopl");
		return 1;
	}
	for (int nr = 1; nr < count; nr++) {
		if (!strcmp(words[nr], "END")) {
			static const char filler[1 << 16];

			out("PXVM1 END 0\n00000000\n", 21);
			out(filler, sizeof(filler)); /* pushes the frames out of Bochs' own buffer */
			sync();
			for (const char *letter = "Shutdown"; *letter; letter++)
				outb((unsigned char)*letter, BOCHS_SHUTDOWN);
			reboot(RB_AUTOBOOT); /* QEMU is told not to: it ends */
		} else if (nr + 1 < count) {
			failed |= send(words[nr], words[nr + 1]);
			nr++;
		}
	}
	return failed ? 1 : 0;
}
