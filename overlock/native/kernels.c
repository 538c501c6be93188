#include "contmix_head.h"

#include "contmix_backward.h"
#include "contmix_forward.h"
#include "convolve.h"
#include "depthwise.h"
#include "grn.h"
