/*
 * The program whose start is timed: it says one byte as soon as it runs and then
 * waits for a signal or, given an argument, for the end of its standard input.
 */
#include <unistd.h>

int main(int argc, char **argv)
{
	char c;

	(void)argv;
	if (write(1, "\n", 1) != 1)
		return 1;
	while (argc == 1)
		pause();
	while (read(0, &c, 1) > 0)
		;
	return 0;
}
