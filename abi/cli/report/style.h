// The page's and the figures' looks.
#pragma once

namespace bitnet::report {

extern const char *const theme_css;  // colours of both schemes, and the figures' classes
extern const char *const page_css;

}  // namespace bitnet::report
