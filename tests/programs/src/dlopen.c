/* Loads and unloads plugin.c again and again, while other threads allocate. usage: dlopen PLUGIN.so ROUNDS */
#include <dlfcn.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static atomic_int stop;

static void *busy(void *argument)
{
    char *p[200] = {0};
    unsigned x = 1;

    (void)argument;
    while (!stop) {
        x = x * 1103515245u + 12345u;
        size_t i = (x >> 8) % 200, n = 16 + (x >> 10) % 3000;
        if (p[i] && p[i][0] != (char)i)
            abort();
        p[i] = realloc(p[i], n);
        if (!p[i])
            abort();
        memset(p[i], (int)i, n);
    }
    for (size_t i = 0; i < 200; i++)
        free(p[i]);
    return NULL;
}

int main(int argc, char **argv)
{
    pthread_t id[2];
    int rounds, sum = 0;

    if (argc != 3)
        return 2;
    rounds = atoi(argv[2]);
    for (int i = 0; i < 2; i++)
        pthread_create(&id[i], NULL, busy, NULL);
    for (int round = 0; round < rounds; round++) {
        void *plugin = dlopen(argv[1], round % 2 ? RTLD_NOW : RTLD_LAZY);
        if (!plugin) {
            puts(dlerror());
            return 1;
        }
        void (*give)(char *) = (void (*)(char *))dlsym(plugin, "plugin_give");
        char *(*work)(size_t) = (char *(*)(size_t))dlsym(plugin, "plugin_work");
        give(strdup("block of the program, freed by the plug-in"));
        char *s = work(100 + (size_t)round * 13);
        sum += (int)strlen(s);
        free(s);
        if (dlsym(plugin, "no_such_symbol")) /* the text of the error is allocated per thread */
            return 1;
        if (dlclose(plugin) != 0)
            return 1;
        if (dlopen("/no/such/library.so", RTLD_NOW))
            return 1;
    }
    stop = 1;
    for (int i = 0; i < 2; i++)
        pthread_join(id[i], NULL);
    printf("%d rounds, %d\n", rounds, sum);
    return 0;
}
