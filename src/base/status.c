/* status: names and texts of acre_status, from the one list in the public header. */
#include "acre/status.h"

const char *acre_status_name(acre_status status)
{
    switch (status) {
#define X(name, text) case ACRE_##name: return "ACRE_" #name;
        ACRE_STATUS_LIST(X)
#undef X
    case ACRE_STATUS_COUNT: break;
    }
    return "ACRE_?";
}

const char *acre_status_text(acre_status status)
{
    switch (status) {
#define X(name, text) case ACRE_##name: return text;
        ACRE_STATUS_LIST(X)
#undef X
    case ACRE_STATUS_COUNT: break;
    }
    return "not a status of acre";
}
