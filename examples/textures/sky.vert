#version 450
#extension GL_GOOGLE_include_directive : require
#include "common.glsl"
// One triangle over the whole picture, at the far end.
layout(location = 0) out vec3 ray;

void main()
{
    vec2 at = vec2((gl_VertexIndex << 1) & 2, gl_VertexIndex & 2) * 2.0 - 1.0;
    vec4 far = frame.from_clip * vec4(at, 1, 1);
    ray = far.xyz / far.w - frame.eye.xyz;
    gl_Position = vec4(at, 1, 1);
}
