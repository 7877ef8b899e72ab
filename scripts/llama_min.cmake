# Read by CMake right after project("llama.cpp"): llama-cpp-python asks for libllama-common and never loads it.
set(LLAMA_BUILD_COMMON OFF CACHE BOOL "" FORCE)
