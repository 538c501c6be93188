#include "block.h"
#include "contmix_backward.h"
#include "depthwise.h"
#include "watched.h"
