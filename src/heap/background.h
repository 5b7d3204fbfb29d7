/* background: a thread that gives memory back while the program does nothing (ACRE_BACKGROUND=1).
 *
 * Free memory ages in the slow paths of those who allocate. A program that frees most of what it has and then sleeps
 * calls nobody, so nothing ages. With this option a thread of acre's wakes up a few times a second and does what the
 * slow paths would. Off by default: a library that starts a thread makes its host a process of two, which some programs
 * cannot be (unshare), and which ends the plain stores that stand for atomic ones in a process of one thread.
 *
 * The thread allocates nothing, takes no signals, and ends with the process. It is not there in the child of a fork
 * until the child's first slow path. */
#ifndef ACRE_HEAP_BACKGROUND_H
#define ACRE_HEAP_BACKGROUND_H

/* Starts the thread if the option asks for it and it does not run. Cheap otherwise. May allocate. */
void background_start(void);
void background_reset_in_child(void);

#endif
