/* No instructions of any processor: for tests, also of another width than the machine's (-DWIDTH=16). */
#define VARIANT plain
#include "kernels.h"
