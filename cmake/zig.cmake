# Builds for another system, or for an older glibc, with the clang, the headers and the libraries
# that zig brings (`pip install ziglang`):
#   cmake -DCMAKE_TOOLCHAIN_FILE=cmake/zig.cmake -DGRADSTEP_ZIG_TARGET=aarch64-linux-gnu.2.17 ...
# Also -windows-gnu, -macos, -linux-musl. The C++ library is linked in, and nothing is raised above
# what every processor of the architecture has.
if(NOT GRADSTEP_ZIG_TARGET)
  set(GRADSTEP_ZIG_TARGET "$ENV{GRADSTEP_ZIG_TARGET}")    # where a front end passes no -D
endif()
if(NOT GRADSTEP_ZIG_TARGET MATCHES "^([a-z0-9_]+)-(linux|windows|macos)")
  message(FATAL_ERROR "GRADSTEP_ZIG_TARGET: got '${GRADSTEP_ZIG_TARGET}', wanted a triple of zig "
    "such as x86_64-linux-gnu.2.17, aarch64-macos or x86_64-windows-gnu")
endif()
set(CMAKE_SYSTEM_PROCESSOR ${CMAKE_MATCH_1})
set(systems_linux Linux)
set(systems_windows Windows)
set(systems_macos Darwin)
set(CMAKE_SYSTEM_NAME ${systems_${CMAKE_MATCH_2}})

# A ziglang of pip is no `zig` in PATH, but its program lies in the package.
if(NOT GRADSTEP_ZIG AND NOT "$ENV{GRADSTEP_ZIG}" STREQUAL "")
  set(GRADSTEP_ZIG "$ENV{GRADSTEP_ZIG}" CACHE FILEPATH "The program zig")
endif()
find_program(GRADSTEP_ZIG zig)
if(NOT GRADSTEP_ZIG)
  execute_process(
    COMMAND python3 -c "import os, ziglang; print(os.path.dirname(ziglang.__file__) + '/zig')"
    OUTPUT_VARIABLE found OUTPUT_STRIP_TRAILING_WHITESPACE ERROR_QUIET)
  if(NOT EXISTS "${found}")
    message(FATAL_ERROR "GRADSTEP_ZIG: got no zig, wanted `pip install ziglang` in python3's environment")
  endif()
  set(GRADSTEP_ZIG "${found}" CACHE FILEPATH "The program zig" FORCE)
endif()
list(APPEND CMAKE_TRY_COMPILE_PLATFORM_VARIABLES GRADSTEP_ZIG_TARGET GRADSTEP_ZIG)

# CMake and ccache want compilers that are one word. Named after clang, whose arguments they take.
function(gradstep_zig_tool variable name arguments)
  set(tool "${CMAKE_BINARY_DIR}/zig/${name}")
  set(text "#!/bin/sh\n${ARGN}exec '${GRADSTEP_ZIG}' ${arguments} \"$@\"\n")
  if(EXISTS "${tool}")
    file(READ "${tool}" before)
    if(NOT before STREQUAL text)    # what is compiled there would stay
      message(FATAL_ERROR "GRADSTEP_ZIG_TARGET, GRADSTEP_ZIG: got '${GRADSTEP_ZIG_TARGET}' and "
        "'${GRADSTEP_ZIG}' in ${CMAKE_BINARY_DIR}, which was configured for others; "
        "wanted an empty build folder")
    endif()
  else()
    file(WRITE "${tool}" "${text}")
    file(CHMOD "${tool}" PERMISSIONS
      OWNER_READ OWNER_WRITE OWNER_EXECUTE GROUP_READ GROUP_EXECUTE WORLD_READ WORLD_EXECUTE)
  endif()
  set(${variable} "${tool}" PARENT_SCOPE)
endfunction()
# zig compiles its C++ library anew for every way to optimize and to link, which takes longer than all
# of ours. What CMake compiles to see which compiler it has would be linked, whatever it is told.
set(compile_only "case \"$*\" in *CMakeC*CompilerId.c*) set -- \"$@\" -c ;; esac\n")
gradstep_zig_tool(CMAKE_C_COMPILER clang-zig "cc -target ${GRADSTEP_ZIG_TARGET}" "${compile_only}")
gradstep_zig_tool(CMAKE_CXX_COMPILER clang++-zig "c++ -target ${GRADSTEP_ZIG_TARGET}" "${compile_only}")
gradstep_zig_tool(CMAKE_AR ar ar)
gradstep_zig_tool(CMAKE_RANLIB ranlib ranlib)
# The host's would refuse foreign files, or spoil them: -s leaves the names out from the start.
set(CMAKE_STRIP "" CACHE FILEPATH "None")

# zig checks for undefined behaviour, and guards stacks, wherever it does not see -O2 or more.
set(CMAKE_CXX_FLAGS_INIT "-fno-sanitize=undefined -fno-stack-protector")
foreach(kind EXE MODULE SHARED)
  set(CMAKE_${kind}_LINKER_FLAGS_RELEASE_INIT "-s")
endforeach()

# For the same reason its other questions are not linked, and pybind11 does not optimize while linking.
set(CMAKE_TRY_COMPILE_TARGET_TYPE STATIC_LIBRARY)
set(CMAKE_INTERPROCEDURAL_OPTIMIZATION OFF)

set(CMAKE_FIND_ROOT_PATH_MODE_PROGRAM NEVER)
set(CMAKE_FIND_ROOT_PATH_MODE_LIBRARY ONLY)
set(CMAKE_FIND_ROOT_PATH_MODE_INCLUDE ONLY)
